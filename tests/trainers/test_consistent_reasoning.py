"""Where inconsistent reasoning is at hand, CARE makes the policy reason consistently, and GRPO does not.

The start is the supervised model that comes with the package: a quarter of what it was taught reasons one way and
answers another, and the answer is right. Whether a rollout is consistent is read off exactly.
"""

import pytest

from seedbench_r1.demo.dataset_writer import write_benchmark
from seedbench_r1.demo.models import shipped_model
from seedbench_r1.demo.settings import CLIP, CONFIG, write_settings
from seedbench_r1.demo.traces import concluded_action
from seedbench_r1.parsing import parse_response
from tests.trainers.toy import plan_and_train, policy_of
from trainers.data import QuestionStream, StepData, read_data
from trainers.resolve import resolve_train_config
from trainers.samplers import BuiltinSampler

STEPS, ROWS, ASKED = 160, 640, 80  # consistency falls first, while accuracy rises; after 80 steps it may still be low


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("miniature")
    write_benchmark(root, seed=5, questions={}, train=ROWS + ASKED, **CLIP)
    write_settings(root)
    return root


def config_of(world, model, out, seed, **changes):
    options = {"max_steps": STEPS, "save_steps": STEPS, "workers": 1, "device": "cpu"}
    options |= {"model": str(model), "out": out, "seed": seed} | changes
    return resolve_train_config(options, config_file=world / CONFIG, environ={})


def consistent_share(world, model, out, seed):
    """Of eight rollouts each of the last rows."""
    config = config_of(world, model, out, seed, algo="grpo")
    policy = policy_of(config)
    stream = QuestionStream(read_data(config).rows[-ASKED:], seed)
    with StepData(config, policy.processor, stream, questions_per_step=ASKED) as data:
        examples, _ = data.next_step()
    found = []
    for group in BuiltinSampler(policy, config).sample(examples):
        for rollout in group.rollouts:
            parsed = parse_response(rollout.text, group.example.question.options)
            answer = parsed.answer and group.example.question.options["ABCD".index(parsed.answer)]
            found.append(answer is not None and concluded_action(parsed.reasoning or "") == answer)
    return sum(found) / len(found)


def shares(world, tmp_path, seed):
    made = {"start": shipped_model("sft")}
    for preset in ("care", "grpo-nokl"):
        config = config_of(world, made["start"], tmp_path / preset, seed, preset=preset)
        made[preset] = plan_and_train(config).checkpoint
    return {name: consistent_share(world, model, tmp_path / "none", seed) for name, model in made.items()}


@pytest.mark.parametrize("preset", ["care", "grpo-nokl"])
def test_its_settings_are_no_strangers_to_either(tmp_path, preset):
    write_settings(tmp_path)
    config = config_of(tmp_path, shipped_model("sft"), tmp_path / "out", 0, preset=preset)
    assert (config.max_steps, config.reference) == (STEPS, "ema" if preset == "care" else "none")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_care_and_not_grpo_makes_rollouts_consistent(world, tmp_path, seed):
    found = shares(world, tmp_path, seed)
    assert found["care"] > found["start"], found
    assert found["care"] > found["grpo-nokl"] + 0.08, found
