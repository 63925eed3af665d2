"""One step taken apart: what is computed, what is left out, and that leaving it out changes nothing."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch

from seedbench_r1.backends.loading import load_model
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.prompts import build_request
from seedbench_r1.types import Media
from tests.tiny_models import vision_tensors
from tests.trainers.toy import TEMPLATE, policy_of, toy_config
from trainers import grpo
from trainers.consistency import answer_span, consistency_bonus
from trainers.data import TrainingExample, read_data
from trainers.groups import Group, GroupReport, RewardedGroup, Rollout
from trainers.optimizer import Optimizer
from trainers.plan import plan_training
from trainers.policy import Policy, load_policy
from trainers.policy_passes import ScoredGroup, backward_groups, plan_passes
from trainers.processes import Processes
from trainers.reference import Reference
from trainers.samplers import BuiltinSampler
from trainers.sft import response_tokens, sft_step
from trainers.shared_prefix import group_logprobs, shared_prefix_attention

CPU = torch.device("cpu")
A, B = "<think>so A</think><answer>A</answer>", "<think>so B</think><answer>B</answer>"


@pytest.fixture
def policy(toy):
    """The SFT model; a new one for each test."""
    made = policy_of(toy_config(toy.sft, toy.data, toy.data / "none", "care"))
    with shared_prefix_attention(made.model):
        yield made


def config_of(toy, algo="care", **changes):
    return toy_config(toy.sft, toy.data, toy.data / "none", algo, **changes)


def example_of(toy, policy: Policy, number: int = 0) -> TrainingExample:
    """Question `number`, whose gold letter is "ABCD"[number]."""
    from seedbench_r1.media.frames import load_media
    from seedbench_r1.models.qwen_vl import prepare_inputs

    config = config_of(toy)
    question = read_data(config).rows[number].question
    media = load_media(None, question.image, config.video)
    assert isinstance(media, Media)
    inputs = prepare_inputs(build_request(question, media, TEMPLATE), policy.processor)
    return TrainingExample(question, f"<answer>{question.gold}</answer>", 0, inputs)


def group_of(toy, policy: Policy, texts: list[str], *, cut: tuple[int, ...] = ()) -> Group:
    """A group of given texts on question 0, whose gold letter is A. Rollouts in `cut` ran into the limit."""
    tokenizer = policy.processor.tokenizer
    rollouts = []
    for place, text in enumerate(texts):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        ended = [] if place in cut else [tokenizer.eos_token_id]
        rollouts.append(Rollout((*ids, *ended), text, "length" if place in cut else "stop"))
    return Group(example_of(toy, policy), tuple(rollouts))


def reference_of(policy: Policy, kind: str = "ema", **options) -> Reference:
    return Reference(kind, policy, **({"decay": 0.995, "every": 10} | options))


def reward_group(policy: Policy, reference: Reference, group: Group, config) -> RewardedGroup:
    base = grpo.base_rewards(policy, group, config)
    return grpo.compute_rewards(base, grpo.answer_likelihoods(policy, reference, base, config), config)


def backward_group(policy, reference, rewarded, config, questions_per_step, optimizer) -> GroupReport:
    ready = [ScoredGroup(rewarded, grpo.reference_logprobs(policy, reference, rewarded, config))]
    form = grpo.step_form([rewarded.group], config, questions_per_step, Processes("cpu"))
    numbers = backward_groups(policy, ready, plan_passes(ready, config), form, config, questions_per_step, optimizer)
    return grpo.group_report(rewarded, list(numbers.values()), config)


def plain_logprobs(model, inputs, ids) -> torch.Tensor:
    """(T,) of one completion, by one ordinary forward pass over prompt and completion."""
    from seedbench_r1.models.qwen_vl import load_processor

    layout = load_processor(model.config._name_or_path).layout
    n = len(inputs.input_ids)
    after = torch.arange(len(ids)) + n + inputs.delta
    logits = model(
        input_ids=torch.cat([inputs.input_ids, torch.tensor(ids)])[None],
        position_ids=torch.cat([inputs.positions, after.expand(3, -1)], dim=1)[:, None],
        use_cache=False,
        **vision_tensors(model, layout, [inputs]),
    ).logits[0]
    return logits[n - 1 : -1].log_softmax(-1).gather(1, torch.tensor(ids)[:, None])[:, 0]


def test_likelihoods_are_those_of_a_plain_forward_pass(toy, policy):
    reference = reference_of(policy)
    rewarded = reward_group(policy, reference, group_of(toy, policy, [A, B, A.replace("so", "A"), "A"]), config_of(toy))
    assert rewarded.needs_reference
    assert rewarded.accuracy.tolist() == [1, 0, 1, 1]
    with torch.no_grad(), reference.model() as model:
        for place in (0, 2):
            ids = rewarded.group.rollouts[place].token_ids
            start, end = answer_span(policy.processor.tokenizer, ids)
            expected = plain_logprobs(model, rewarded.group.example.inputs, ids)[start:end].mean().exp()
            assert float(rewarded.likelihood[place]) == pytest.approx(float(expected), abs=1e-5)
    assert rewarded.likelihood[[1, 3]].isnan().all()  # wrong; accurate without a tag
    expected = consistency_bonus(rewarded.accuracy[None], rewarded.likelihood[None])[0]
    assert torch.equal(rewarded.bonus, expected)
    assert rewarded.bonus.max() == 0.5
    assert torch.equal(rewarded.reward, rewarded.accuracy + rewarded.format + rewarded.bonus)


@pytest.mark.parametrize(
    ("texts", "accuracy", "bonus", "passes"),
    [
        ([B, B, B, B], [0, 0, 0, 0], [0, 0, 0, 0], 0),  # none accurate
        ([A, B, B, B], [1, 0, 0, 0], [0.5, 0, 0, 0], 0),  # one: its own mean
        ([A, A, A, A], [1, 1, 1, 1], [0.5] * 4, 1),  # all, equal
        (["A", "A", B, B], [1, 1, 0, 0], [0, 0, 0, 0], 0),  # accurate without an answer tag
        (["A", A, B, B], [1, 1, 0, 0], [0, 0.5, 0, 0], 0),  # one of the accurate has a tag
        (["<answer>cup</answer>", B, B, B], [1, 0, 0, 0], [0.5, 0, 0, 0], 0),  # several tokens, by the option's text
        (["<answer>A</answer><answer>B</answer>", B, B, B], [1, 0, 0, 0], [0.5, 0, 0, 0], 0),  # two tags: the first
        (["", "<answer></answer>", "<answer>A", B], [0, 0, 0, 0], [0, 0, 0, 0], 0),
    ],
)
def test_odd_groups_are_defined(toy, policy, texts, accuracy, bonus, passes):
    reference = reference_of(policy)
    rewarded = reward_group(policy, reference, group_of(toy, policy, texts, cut=(3,)), config_of(toy))
    assert rewarded.accuracy.tolist() == accuracy
    assert rewarded.bonus.tolist() == bonus
    assert rewarded.needs_reference == passes
    assert rewarded.reward.isfinite().all()
    assert rewarded.advantage.isfinite().all()
    optimizer = Optimizer(policy.trainable(), config_of(toy))
    result = backward_group(policy, reference, rewarded, config_of(toy), 1, optimizer)
    assert math.isfinite(result.loss)
    assert all(bool(gradient.isfinite().all()) for gradient in optimizer.gradients())


def test_a_lone_accurate_rollout_gets_the_bonus_it_would_get_with_its_likelihood(toy, policy):
    # the short cut equals the full computation for any likelihood
    for likelihood in (0.001, 0.3, 0.99):
        full = consistency_bonus(torch.tensor([[1.0, 0.0]]), torch.tensor([[likelihood, math.nan]]))
        assert full.tolist() == [[0.5, 0.0]]


def test_equal_rewards_cost_no_pass_and_the_pass_would_give_nothing(toy, policy):
    config = config_of(toy, "grpo", preset="grpo-nokl")
    reference = reference_of(policy, "none")
    rewarded = reward_group(policy, reference, group_of(toy, policy, [A, A, A]), config)
    optimizer = Optimizer(policy.trainable(), config)
    result = backward_group(policy, reference, rewarded, config, 1, optimizer)
    assert (result.policy_passes, result.loss) == (0, 0.0)
    assert all(parameter.grad is None for parameter in policy.trainable().values())
    completions = [torch.tensor(rollout.token_ids) for rollout in rewarded.group.rollouts]
    logprobs, _ = group_logprobs(policy.model, policy.processor.layout, rewarded.group.example.inputs, completions)
    (logprobs.sum(dim=1) * rewarded.advantage).sum().backward()
    assert all(not gradient.any() for gradient in optimizer.gradients())


def test_kl_is_zero_at_first_and_keeps_groups_without_spread_in(toy, policy):
    config = config_of(toy, "grpo", beta=0.5)
    reference = reference_of(policy, "frozen")
    rewarded = reward_group(policy, reference, group_of(toy, policy, [A, A]), config)
    optimizer = Optimizer(policy.trainable(), config)
    first = backward_group(policy, reference, rewarded, config, 1, optimizer)
    assert first.policy_passes == 1
    assert first.kl == pytest.approx(0.0, abs=1e-6)
    optimizer.step(0.0)
    with torch.no_grad():
        policy.model.lm_head.weight.mul_(0.3)
    second = backward_group(policy, reference, rewarded, config, 1, optimizer)
    with torch.no_grad(), reference.model() as model:
        inputs, ids = rewarded.group.example.inputs, rewarded.group.rollouts[0].token_ids
        d = plain_logprobs(model, inputs, ids) - plain_logprobs(policy.model, inputs, ids)
    assert second.kl == pytest.approx(float((d.exp() - d - 1).mean()), rel=1e-3)
    assert second.kl > 1e-3
    assert second.loss == pytest.approx(0.5 * second.kl, rel=1e-4)
    none = config_of(toy, "grpo", beta=0.5, kl_on="accurate")
    wrong = reward_group(policy, reference, group_of(toy, policy, [B, B]), none)
    assert backward_group(policy, reference, wrong, none, 1, optimizer).policy_passes == 0


def test_care_not_grpo_moves_towards_the_consistent_of_two_accurate_rollouts(toy, policy):
    consistent, inconsistent = A, "<think>so B</think><answer>A</answer>"
    group = group_of(toy, policy, [consistent, inconsistent, consistent, inconsistent])
    completions = [torch.tensor(rollout.token_ids) for rollout in group.rollouts[:2]]

    def scores() -> list[float]:
        with torch.no_grad():
            logprobs, _ = group_logprobs(policy.model, policy.processor.layout, group.example.inputs, completions)
        return logprobs.sum(dim=1).tolist()

    before = scores()
    plain = config_of(toy, "grpo", preset="grpo-nokl")
    rewarded = reward_group(policy, reference_of(policy, "none"), group, plain)
    assert (
        backward_group(
            policy, reference_of(policy, "none"), rewarded, plain, 1, Optimizer(policy.trainable(), plain)
        ).policy_passes
        == 0
    )
    care, reference = config_of(toy, learning_rate=1e-4), reference_of(policy)
    optimizer = Optimizer(policy.trainable(), care)
    rewarded = reward_group(policy, reference, group, care)
    assert rewarded.likelihood[0] > rewarded.likelihood[1] + 0.2  # what SFT taught: the answer follows the reasoning
    assert rewarded.bonus.tolist() == [0.5, 0.0, 0.5, 0.0]
    backward_group(policy, reference, rewarded, care, 1, optimizer)
    optimizer.step(1e-4)
    after = scores()
    assert after[0] > before[0]
    assert after[1] < before[1]


def test_the_average_follows_the_formula_and_the_working_copy_shows_it(toy, policy):
    reference = reference_of(policy, decay=0.75, every=2)
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    first = policy.trainable()[name].detach().clone()
    expected = first.clone()
    for step in range(1, 5):
        with torch.no_grad():
            policy.trainable()[name].add_(1.0)
        reference.update(step, policy.trainable())
        if step % 2 == 0:
            expected = 0.75 * expected + 0.25 * (first + step)
    torch.testing.assert_close(reference.average[name], expected)
    with reference.model() as model:
        assert torch.equal(dict(model.named_parameters())[name], reference.average[name])
        assert model is not policy.model
    frozen = reference_of(policy, "frozen")
    with torch.no_grad():
        policy.trainable()[name].add_(1.0)
    with frozen.model() as model:
        torch.testing.assert_close(dict(model.named_parameters())[name], first + 4)


def test_lora_references_need_no_copy_and_put_the_adapters_back(toy):
    config = config_of(toy, lora=True)
    policy = policy_of(config)
    assert config.learning_rate == 2e-3  # given, so not raised for LoRA
    assert all("lora_" in name for name in policy.trainable())
    inputs = example_of(toy, policy).inputs
    ids = policy.processor.tokenizer(A, add_special_tokens=False)["input_ids"]
    base = plain_logprobs(policy.model, inputs, ids).detach()
    ema, frozen = reference_of(policy, decay=0.5, every=1), reference_of(policy, "frozen")
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.05)
    trained = {name: value.detach().clone() for name, value in policy.trainable().items()}
    changed = plain_logprobs(policy.model, inputs, ids).detach()
    assert (changed - base).abs().max() > 1e-3
    ema.update(1, policy.trainable())
    with torch.no_grad():
        with frozen.model() as model:
            torch.testing.assert_close(plain_logprobs(model, inputs, ids), base)
        with ema.model() as model:
            assert all(torch.equal(value, ema.average[name]) for name, value in policy.trainable().items())
            between = plain_logprobs(model, inputs, ids)
    assert (between - base).abs().max() > 1e-4
    assert (between - changed).abs().max() > 1e-4
    assert all(torch.equal(value, trained[name]) for name, value in policy.trainable().items())
    torch.testing.assert_close(plain_logprobs(policy.model, inputs, ids).detach(), changed)


def test_an_adapter_is_saved_alone_and_loads_as_evaluation_does(toy, tmp_path):
    policy = policy_of(config_of(toy, lora=True))
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter.add_(0.03)
    inputs = example_of(toy, policy).inputs
    ids = policy.processor.tokenizer(A, add_special_tokens=False)["input_ids"]
    policy.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    merged, _ = load_model(str(tmp_path), base_model=None, revision=None, dtype="float32", device=CPU)
    with torch.no_grad():
        expected = plain_logprobs(policy.model, inputs, ids)
        torch.testing.assert_close(plain_logprobs(merged, inputs, ids), expected, rtol=0, atol=1e-5)


def test_an_adapter_names_its_base_so_that_it_is_found_from_anywhere(toy, tmp_path, monkeypatch):
    monkeypatch.chdir(toy.sft.parent)
    relative = toy_config(Path(toy.sft.name), toy.data, tmp_path / "none", "care", lora=True)
    policy_of(relative).save(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == str(toy.sft)
    # A hub id stays one: the folder of the cache is this machine's own.
    named = dataclasses.replace(relative, model="org/name")
    load_policy(named, inspect_model(str(toy.sft)), CPU).save(tmp_path / "named")
    stored = json.loads((tmp_path / "named" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] == "org/name"


def test_sft_differentiates_the_mean_over_all_response_tokens(toy, policy):
    config = config_of(toy, "sft")
    longer = "<think>so B, clearly</think><answer>B</answer>"
    examples = [example_of(toy, policy), dataclasses.replace(example_of(toy, policy, 1), response=longer)]
    optimizer = Optimizer(policy.trainable(), config)
    results = sft_step(policy, optimizer, examples, config, list)
    found = [gradient.clone() for gradient in optimizer.gradients()]
    lengths = [len(response_tokens(policy, example)) for example in examples]
    assert lengths[0] != lengths[1]
    assert int(response_tokens(policy, examples[0])[-1]) == policy.processor.tokenizer.eos_token_id
    policy.model.zero_grad()
    terms = [plain_logprobs(policy.model, i.inputs, response_tokens(policy, i).tolist()) for i in examples]
    loss = -torch.cat(terms).mean()
    loss.backward()
    assert sum(result.nll for result in results) / sum(lengths) == pytest.approx(float(loss.detach()), rel=1e-5)
    for ours, (name, parameter) in zip(found, policy.trainable().items(), strict=True):
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6, msg=name)


def test_rollouts_depend_on_seed_epoch_and_question_alone(toy, policy):
    examples = [example_of(toy, policy, number) for number in range(3)]
    config = config_of(toy, num_generations=4)
    together = BuiltinSampler(policy, config).sample(examples)
    apart = [group for example in examples for group in BuiltinSampler(policy, config).sample([example])]
    assert [g.rollouts for g in together] == [g.rollouts for g in apart]
    end = policy.processor.tokenizer.eos_token_id
    for rollout in (r for group in together for r in group.rollouts):
        assert (rollout.token_ids[-1] == end) == (rollout.finish_reason == "stop")
        assert not set(rollout.token_ids) & set(policy.processor.forbidden_ids)
        assert len(rollout.token_ids) <= config.max_completion_length + 1
    later = TrainingExample(examples[0].question, examples[0].response, 1, examples[0].inputs)
    assert BuiltinSampler(policy, config).sample([later])[0].rollouts != together[0].rollouts
    assert BuiltinSampler(policy, config_of(toy, num_generations=4, seed=7)).sample(examples[:1])[0] != together[0]


def test_group_chunk_and_the_repeated_form_give_the_same_gradients(toy, policy):
    reference = reference_of(policy)
    group = group_of(toy, policy, [A, B, A.replace("so", "A"), B])
    found = []
    for options in ({}, {"group_chunk": 1}, {"shared_prefix": False}):
        config = config_of(toy, **options)
        optimizer = Optimizer(policy.trainable(), config)
        backward_group(policy, reference, reward_group(policy, reference, group, config), config, 1, optimizer)
        found.append(torch.cat([gradient.flatten().clone() for gradient in optimizer.gradients()]))
        policy.model.zero_grad()
    assert found[0].norm() > 0.1
    for other in found[1:]:
        assert (other - found[0]).norm() < 1e-4 * found[0].norm()


def test_a_groups_share_of_the_step_is_one_over_its_questions(toy, policy):
    reference, config, norms = reference_of(policy), config_of(toy), []
    rewarded = reward_group(policy, reference, group_of(toy, policy, [A, B]), config)
    for questions in (1, 4):
        optimizer = Optimizer(policy.trainable(), config)
        backward_group(policy, reference, rewarded, config, questions, optimizer)
        norms.append(float(torch.cat([gradient.flatten() for gradient in optimizer.gradients()]).norm()))
        policy.model.zero_grad()
    assert norms[1] == pytest.approx(norms[0] / 4, rel=1e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(toy, lora):
    found = []
    for checkpointing in (False, True):
        config = config_of(toy, lora=lora, gradient_checkpointing=checkpointing)
        policy = policy_of(config)
        with torch.no_grad():
            for name, parameter in policy.trainable().items():
                parameter.add_(0.02 if "lora_B" in name else 0.0)
        assert policy.model.is_gradient_checkpointing == checkpointing
        optimizer, reference = Optimizer(policy.trainable(), config), reference_of(policy)
        with shared_prefix_attention(policy.model):
            rewarded = reward_group(policy, reference, group_of(toy, policy, [A, B]), config)
            backward_group(policy, reference, rewarded, config, 1, optimizer)
        found.append(torch.cat([gradient.flatten() for gradient in optimizer.gradients()]))
    assert found[0].norm() > 0.01
    assert (found[1] - found[0]).norm() < 1e-5 * found[0].norm()


def test_frozen_parts_stay_and_are_shared_with_the_reference(toy):
    policy = policy_of(config_of(toy, freeze_vision=True))
    assert not any(".visual." in name for name in policy.trainable())
    with reference_of(policy).model() as model:
        ours, theirs = dict(policy.model.named_parameters()), dict(model.named_parameters())
    for name, value in ours.items():
        assert (theirs[name] is value) == (".visual." in name)


def test_plan_reads_no_weights(toy, tmp_path):
    planned = plan_training(config_of(toy, max_steps=3, gradient_accumulation_steps=2))
    assert (planned.questions_per_step, planned.n_steps, planned.done) == (2, 3, 0)
