"""--refill: groups without spread are replaced by further questions, the same in any number of processes."""

import threading

import torch

from seedbench_r1.models.qwen_vl import load_processor
from tests.trainers.launch import assert_same_checkpoint, metrics_of
from tests.trainers.test_iterations import step_on
from tests.trainers.test_parts import rollout
from tests.trainers.test_steps import A, B, config_of, example_of, group_of, policy, reference_of
from tests.trainers.toy import plan_and_train, toy_config
from trainers.checkpoints import TrainingState, read_training
from trainers.data import QuestionStream, StepData, read_data
from trainers.groups import Group, GroupReport
from trainers.grpo import grpo_step
from trainers.metrics import grpo_metrics
from trainers.optimizer import Optimizer
from trainers.processes import Processes

__all__ = ["policy"]  # a fixture


class Rounds:
    """A sampler whose groups are given, round after round, and the questions that they are of."""

    def __init__(self, *rounds):
        self.rounds = list(rounds)

    def sample(self, examples):
        groups = self.rounds.pop(0)
        assert [one.example for one in groups] == list(examples)
        return groups


def test_a_group_is_replaced_until_it_has_spread_or_the_rounds_are_over(toy, policy):
    config = config_of(toy, "grpo", preset="grpo-nokl", num_generations=2, refill=2)
    spread, flat = group_of(toy, policy, [A, B]), group_of(toy, policy, [B, B])
    examples = [example_of(toy, policy, number) for number in range(4)]
    first = [Group(examples[0], spread.rollouts), Group(examples[1], flat.rollouts)]
    one_right = group_of(toy, policy, [A.replace("A", "D"), B])
    second, third = [Group(examples[2], flat.rollouts)], [Group(examples[3], one_right.rollouts)]
    weights = {name: value.clone() for name, value in policy.model.state_dict().items()}
    state = TrainingState(policy, reference_of(policy, "none"), Optimizer(policy.trainable(), config))
    asked, gradients = [], []

    def refill(places):
        asked.append(places)
        return {1: examples[1 + len(asked)]}

    def update():
        gradients.append([gradient.clone() for gradient in state.optimizer.gradients()])
        return state.optimizer.step(1e-3)

    result = grpo_step(state, Rounds(first, second, third), examples[:2], config, 2, Processes("cpu"), update, refill)
    assert asked == [[1], [1]]  # two rounds and no more
    assert [report.replaced for report in result.groups] == [False, False, True, True]
    ids = [report.rollouts[0]["question_id"] for report in result.groups]
    assert ids == [examples[place].question.question_id for place in (0, 3, 1, 2)]
    policy.model.load_state_dict(weights)
    _, (direct,), _ = step_on(policy, [first[0], third[0]], config)
    assert all(map(torch.equal, gradients[0], direct))
    metrics = grpo_metrics(result.groups)
    assert metrics["zero_std"] == 0.5  # of all that were drawn
    assert metrics["accuracy"] == (1 + 2 + 0 + 1) / 8  # golds A, B, C and D


def test_the_loss_is_of_the_groups_that_were_kept_by_hand():
    kept = [GroupReport([rollout()], loss, None, 1, 0) for loss in (0.5, 0.25)]
    given_up = GroupReport([rollout(reward=4.0)], 0.0, None, 0, 1, replaced=True)
    found = grpo_metrics([*kept, given_up])
    assert (found["loss"], found["reward"]) == (0.375, 2.0)
    assert (found["policy_passes"], found["reference_passes"]) == (2, 1)


def test_no_group_is_replaced_unless_it_is_asked_for(toy, policy):
    spread, flat = group_of(toy, policy, [A, B]), group_of(toy, policy, [B, B])

    def refill(places):
        calls.append(places)

    for rounds, expected in ((0, []), (3, [[0]])):  # None: no process has a group without spread
        calls: list[list[int]] = []
        config = config_of(toy, "grpo", preset="grpo-nokl", num_generations=2, refill=rounds)
        state = TrainingState(policy, reference_of(policy, "none"), Optimizer(policy.trainable(), config))
        groups = [flat, spread]
        examples = [one.example for one in groups]
        result = grpo_step(state, Rounds(groups), examples, config, 2, Processes("cpu"), lambda: 0.0, refill)
        assert calls == expected
        assert not any(report.replaced for report in result.groups)


def test_all_processes_read_the_same_questions_in_the_order_of_the_slots(toy):
    config, processor = config_of(toy, "grpo"), load_processor(str(toy.raw))
    rows = read_data(config).rows
    expected = [drawn.question.question_id for drawn in QuestionStream(rows, config.seed).take(13)]

    def read(share, gathered):
        """The ids of a step's 4 slots, of those of slots 1, 2 and 3 that are replaced, and of the next step's."""
        stream = QuestionStream(rows, config.seed)
        with StepData(config, processor, stream, questions_per_step=4, share=share, gather=gathered) as data:
            examples, _ = data.next_step()
            found = [example.question.question_id for example in examples]
            places = {(0, 1): [1, 2, 3], (0, 2): [1], (1, 2): [0, 1]}[share]
            fresh, skipped = data.replace(places)
            assert list(fresh) == places
            assert skipped == []
            found += [example.question.question_id for example in fresh.values()]
            examples, _ = data.next_step()
            assert data.position == 11
            return found + [example.question.question_id for example in examples]

    assert read((0, 1), list) == expected[:11]
    answers = iter([[], [2, 1, 3], [], []])  # what was skipped, the slots in the order of the ranks, skipped, skipped
    assert read((0, 2), lambda items: next(answers)) == [expected[i] for i in (0, 2, 5, 7, 9)]
    answers = iter([[], [2, 1, 3], [], []])
    assert read((1, 2), lambda items: next(answers)) == [expected[i] for i in (1, 3, 4, 6, 8, 10)]
    stream = QuestionStream(rows, config.seed)
    with StepData(config, processor, stream, questions_per_step=4) as data:
        data.next_step()
        assert data.replace([]) is None
        assert data.position == 4


def test_two_and_two_refilled_steps_are_four(toy, tmp_path):
    settings = {"max_steps": 4, "num_generations": 3, "gradient_accumulation_steps": 2, "refill": 2, "save_steps": 100}
    whole = plan_and_train(toy_config(toy.sft, toy.data, tmp_path / "whole", "care", **settings))
    config = toy_config(toy.sft, toy.data, tmp_path / "parts", "care", **settings)
    stop = threading.Event()
    first = plan_and_train(config, stop=stop, observe=lambda line: stop.set() if line["step"] == 2 else None)
    second = plan_and_train(config)
    assert_same_checkpoint(whole.checkpoint, second.checkpoint)
    lines = metrics_of(tmp_path / "parts")
    assert lines == metrics_of(tmp_path / "whole")
    refilled = [line["refilled"] for line in lines]
    assert sum(refilled[:2]) > 0 < sum(refilled[2:])
    assert max(refilled) <= 2 * 2
    for done, folder in ((2, first.checkpoint), (4, second.checkpoint)):
        assert read_training(folder).progress.position == 2 * done + sum(refilled[:done])
    assert lines[-1]["epoch"] == (8 + sum(refilled)) / 4  # of 4 rows: the stream is read faster
