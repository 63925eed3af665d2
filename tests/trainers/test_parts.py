"""Config, stream, schedule, optimiser, metrics and estimate, by hand-worked numbers."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from seedbench_r1.backends.loading import resolve_device
from seedbench_r1.config import resolve_eval_config
from seedbench_r1.errors import ConfigError, DataError, ResourceError
from seedbench_r1.models.checkpoint import inspect_model
from seedbench_r1.questions import TrainingData, load_training_rows, training_question
from seedbench_r1.runs.training_snapshot import read_lines
from tests.rows import training_row, write_rows
from tests.trainers.toy import policy_of, toy_config
from trainers.config import TrainConfig, total_steps
from trainers.data import QuestionStream, contradicting_rows, read_data
from trainers.estimate import _pinned, count_parameters, estimate
from trainers.groups import GroupReport as Report
from trainers.identity import RESUME_MUTABLE, resume_identity
from trainers.metrics import StepLog, collapse_warnings, grpo_metrics
from trainers.optimizer import Optimizer, learning_rate
from trainers.plan import plan_training
from trainers.presets import PRESETS
from trainers.processes import Processes
from trainers.resolve import resolve_train_config


def resolved(tmp_path: Path, **options) -> TrainConfig:
    return resolve_train_config({"model": "m", "data": tmp_path, "out": tmp_path / "out"} | options)


def test_presets_are_what_was_published(tmp_path):
    care = resolved(tmp_path, algo="care")
    assert (care.num_generations, care.max_completion_length, care.learning_rate) == (8, 768, 1e-6)
    assert (care.beta, care.ema_decay, care.ema_every, care.bonus_weight, care.bonus_cap) == (0, 0.995, 10, 0.5, 0.95)
    paper = resolved(tmp_path, preset="care-paper")
    assert (paper.algo, paper.top_p, paper.top_k) == ("care", 0.95, 50)
    grpo = resolved(tmp_path, algo="grpo")
    assert (grpo.bonus, grpo.beta, grpo.reference) == ("none", 0.1, "frozen")
    assert resolved(tmp_path, preset="grpo-nokl").reference == "none"
    sft = resolved(tmp_path, algo="sft")
    assert (sft.learning_rate, sft.warmup_ratio, sft.gradient_accumulation_steps) == (2e-5, 0.1, 16)
    with pytest.raises(ConfigError, match="--num-generations belongs to --algo grpo or --algo care"):
        resolved(tmp_path, algo="sft", num_generations=1)  # it draws none
    assert sft.questions_file.name == "training_with_cot_6k.jsonl"
    assert care.questions_file.name == "training_6k.jsonl"
    assert total_steps(care, 6000, 4) == 1500  # the released checkpoint-1500: 4 processes, 1 question each
    assert resolved(tmp_path, algo="care", lora=True).learning_rate == pytest.approx(1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algo": "grpo", "preset": "care"}, "--preset care is for --algo care"),
        ({"preset": "best"}, "No preset 'best'"),
        ({"algo": "grpo", "bonus": "care"}, "has no consistency bonus"),
        ({"algo": "care", "reference": "none"}, "--bonus care needs a reference model"),
        ({"preset": "grpo-nokl", "beta": 0.1}, "--beta above 0 needs a reference model"),
        ({"algo": "care", "temperature": 0.0}, "--temperature is 0.0"),
        ({"algo": "care", "num_generations": 0}, "--num-generations is 0"),
        ({"algo": "care", "num_generations": 1}, r"--num-generations 1 leaves nothing .*: --num-generations 2 or more"),
        ({"algo": "grpo", "num_generations": 1}, r"--num-generations 1 leaves nothing .*: --num-generations 2 or more"),
        ({"algo": "care", "model": None}, "No model given"),
        ({"algo": "care", "out": None}, "No out given"),
        ({"algo": "care", "delta": 0.2}, "Unknown training option 'delta'"),
        ({"algo": "care", "epsilon": 0.2}, "--epsilon belongs to --num-iterations 2 or more, and this is --num-iter"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        resolved(tmp_path, **options)


def test_every_setting_is_compared_or_free(tmp_path):
    config = resolved(tmp_path, algo="care")
    names = {key.split(".")[0] for key in resume_identity(config)}
    assert names | RESUME_MUTABLE == set(TrainConfig.__dataclass_fields__)
    assert not names & RESUME_MUTABLE
    assert resume_identity(config)["video.max_frames"] == 16
    assert all(preset["algo"] in ("care", "grpo", "sft") for preset in PRESETS.values())


def test_the_stream_is_a_new_order_every_epoch_and_starts_anywhere(tmp_path):
    rows = load_training_rows(write_rows(tmp_path / "t.jsonl", [training_row(i) for i in range(5)]), tmp_path)
    stream = QuestionStream(rows, seed=3)
    whole = stream.take(15)
    for epoch in range(3):
        part = whole[5 * epoch : 5 * epoch + 5]
        assert {d.question.question_id for d in part} == {row.question.question_id for row in rows}
        assert {d.epoch for d in part} == {epoch}
        for drawn in part:
            row = next(row for row in rows if row.question.question_id == drawn.question.question_id)
            assert drawn.question == training_question(row, seed=3, epoch=epoch)
            assert drawn.response == f"<answer>{drawn.question.gold}</answer>"
    orders = [[d.question.question_id for d in whole[s : s + 5]] for s in (0, 5, 10)]
    assert len(set(map(tuple, orders))) > 1
    later = QuestionStream(rows, seed=3, position=7)
    assert later.peek(3) == later.take(3) == whole[7:10]
    assert later.position == 10
    assert QuestionStream(rows, seed=4).take(15) != whole


def test_responses_that_contradict_their_gold_letter_are_named(tmp_path):
    choices = {"choice_a": "a", "choice_b": "b", "choice_c": "c", "choice_d": "d", "golden_choice_idx": "B"}
    texts = ["<answer>B</answer>", "<answer>A</answer>", "none"]
    rows = [training_row(i, response=text, answer="b", **choices) for i, text in enumerate(texts)]
    loaded = load_training_rows(write_rows(tmp_path / "t.jsonl", rows), tmp_path)
    assert contradicting_rows(loaded) == ["train/1", "train/2"]


def test_no_response_teaches_a_letter_of_other_options_than_those_shown(tmp_path):
    """Rows in the form of the chat files: options in the prompt alone, a letter in the response."""
    rows = []
    for number in range(40):
        options = [f"wrong {number}-{k}" for k in range(3)]
        options.insert(number % 4, f"right {number}")
        text = "Which action comes next?\n" + "\n".join(map(". ".join, zip("ABCD", options, strict=True)))
        rows.append(
            training_row(
                number,
                answer=f"right {number}",
                negative_answers=[f"wrong {number}-{k}" for k in range(5)],
                task_progress_metadata=[],
                prompt=[{"role": "user", "content": [{"type": "text", "text": text}]}],
                response=f"<think>right {number} fits.</think><answer>{'ABCD'[number % 4]}</answer>",
            )
        )
    path = write_rows(tmp_path / "annotations" / "training_with_cot_6k.jsonl", rows)
    config = resolved(tmp_path, algo="sft", allow_missing=True)
    for drawn in QuestionStream(read_data(config).rows, 42).take(200):  # five epochs
        assert drawn.response.split("<answer>")[1][0] == drawn.question.gold
        assert drawn.question.options[drawn.question.letters.index(drawn.question.gold)].startswith("right")
    write_rows(path, [*rows[:6], rows[6] | {"prompt": [{"role": "user", "content": "Which action comes next?"}]}])
    with pytest.raises(DataError, match=r"training_with_cot_6k\.jsonl:7: a response without choices.*Nothing was"):
        read_data(config)
    # Rewards come from options that are drawn: no response is taught there.
    assert len(read_data(resolved(tmp_path, algo="care", train_file=path, allow_missing=True)).rows) == 7


def test_learning_rates_by_hand(tmp_path):
    config = resolved(tmp_path, algo="care", learning_rate=1.0, warmup_ratio=0.2)
    rates = [learning_rate(config, step, 10) for step in range(10)]
    assert rates[:3] == [0.0, 0.5, 1.0]
    assert rates[6] == pytest.approx(0.5)  # half of the 8 steps after the warm-up: (1 + cos(pi / 2)) / 2
    assert rates[9] == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    linear = resolved(tmp_path, algo="care", learning_rate=1.0, lr_scheduler_type="linear")
    assert [learning_rate(linear, step, 4) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    constant = resolved(tmp_path, algo="care", learning_rate=0.3, lr_scheduler_type="constant")
    assert learning_rate(constant, 3, 4) == 0.3


def test_small_steps_reach_a_bfloat16_weight_through_its_fp32_copy(tmp_path):
    config = resolved(tmp_path, algo="care", weight_decay=0.0)
    weight = torch.nn.Parameter(torch.full((2, 2), 0.02, dtype=torch.bfloat16))
    first = weight.detach().clone()
    optimizer = Optimizer({"w": weight}, config)
    for _ in range(200):
        weight.grad = torch.ones_like(weight)
        optimizer.accumulate()
        assert weight.grad is None
        optimizer.step(1e-6)
    torch.testing.assert_close(optimizer.weights["w"], first.float() - 200e-6, rtol=0, atol=2e-6)
    assert torch.equal(weight.detach(), optimizer.weights["w"].to(torch.bfloat16))
    assert not torch.equal(weight.detach(), first)


def test_gradients_are_clipped_and_a_broken_step_is_not_taken(tmp_path):
    config = resolved(tmp_path, algo="care", max_grad_norm=1.0, weight_decay=0.0)
    weight = torch.nn.Parameter(torch.zeros(1, 2))
    optimizer = Optimizer({"w": weight}, config)
    weight.grad = torch.tensor([[3.0, 4.0]])
    assert optimizer.step(0.1) == pytest.approx(5.0)
    moved = weight.detach().clone()
    weight.grad = torch.tensor([[math.nan, 1.0]])
    assert math.isnan(optimizer.step(0.1))
    assert torch.equal(weight.detach(), moved)


def rollout(**changes):
    base = {"text": "<think>a b c d</think><answer>A</answer>", "opened": "", "finish_reason": "stop", "tokens": 10}
    base |= {
        "reward": 1.0,
        "accuracy": 0.0,
        "format": 1.0,
        "bonus": 0.0,
        "likelihood": None,
        "advantage": 0.0,
        "rewards": {},
    }
    return base | changes


def test_metrics_by_hand():
    first = Report([rollout(), rollout(tokens=20, finish_reason="length", text="x")], 0.0, None, 0, 0)
    second = Report(
        [rollout(reward=2.5, accuracy=1.0, bonus=0.5, likelihood=0.8, advantage=1.0), rollout(advantage=-1.0)],
        -0.5,
        0.1,
        1,
        1,
    )
    found = grpo_metrics([first, second])
    assert found == {
        "reward": 1.375,
        "accuracy": 0.25,
        "format": 1.0,
        "bonus": 0.125,
        "likelihood": 0.8,
        "zero_std": 0.5,
        "length": 12.5,
        "truncated": 0.25,
        "reasoning": 0.75,  # "x" has none
        "reasoning_words": 4.0,
        "kl": 0.1,
        "rollout_logprob_gap": None,
        "rollout_ratio": None,
        "loss": -0.25,
        "policy_passes": 1,
        "reference_passes": 1,
    }


def test_collapses_are_named_after_twenty_steps():
    good = {"zero_std": 0.3, "truncated": 0.0, "reasoning_words": 40.0}
    assert collapse_warnings([good] * 20) == []
    bad = {"zero_std": 0.5, "truncated": 0.2, "reasoning_words": 1.0}
    assert collapse_warnings([bad] * 19) == []
    found = collapse_warnings([good] * 5 + [bad] * 20)
    assert len(found) == 3
    assert "zero_std 50 %, groups without spread" in found[0]


def test_lines_after_the_checkpoint_and_torn_ones_are_dropped(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    for name in ("rollouts.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text('{"step": 1}\n{"step": 3}\n')
    log = StepLog(tmp_path, 2)
    with pytest.raises(ConfigError, match="Another process"):
        StepLog(tmp_path, 2)
    log.write({"step": 3, "x": 1}, [], [{"question_id": "q"}])
    log.close()
    assert read_lines(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}, {"step": 3, "x": 1}]
    assert read_lines(tmp_path / "rollouts.jsonl") == [{"step": 1}]
    assert read_lines(tmp_path / "heldout.jsonl") == [{"step": 1}, {"step": 3, "question_id": "q"}]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nwhat\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl:2"):
        read_lines(tmp_path / "metrics.jsonl")


def test_the_estimate_knows_the_models_size(toy):
    config = toy_config(toy.raw, toy.data, toy.data / "none", "care", dtype="float32")
    policy = policy_of(config)
    n = sum(parameter.numel() for parameter in policy.model.parameters())
    assert count_parameters(toy.raw) == n
    guess = estimate(config, inspect_model(str(toy.raw)), 1)
    assert guess.weights == guess.reference == guess.average == 4 * n
    assert guess.optimizer == 8 * n  # two moments; the weights are fp32 already
    assert guess.update == 4 * n  # gradients
    assert guess.loading == 4 * n
    assert guess.policy_pass > 4 * n
    sharded = toy_config(toy.raw, toy.data, toy.data / "none", "care", dtype="float32", fsdp=True)
    guess = estimate(sharded, inspect_model(str(toy.raw)), 1, 4)
    assert guess.weights == guess.average == guess.update == n
    # A quarter of the first dimension, rounded up, and of its bytes the next power of two.
    shards = [math.ceil(len(p) / 4) * p[0].numel() * 4 for p in policy.model.parameters()]
    assert guess.reference == sum(2 ** math.ceil(math.log2(size)) for size in shards) > n
    assert guess.optimizer == 2 * n
    assert guess.loading == n + 2 * 4 * n  # shards, the gathered policy and the copy that becomes the reference
    assert guess.sampling > 4 * n  # all weights
    assert guess.main_memory_bytes(sharded) == n + guess.reference  # average and copy
    moved = replace(sharded, optimizer_device="cpu")
    there, here = estimate(moved, inspect_model(str(toy.raw)), 1, 4), guess
    assert (there.weights, there.policy_pass) == (here.weights, here.policy_pass)  # the shards stay where they are
    assert there.optimizer == 3 * n  # moments and the weights that are stepped on
    assert there.main_memory_bytes(moved) == n + guess.reference + 3 * n + n  # those and gradients
    assert there.checkpoint == here.checkpoint
    lora = toy_config(toy.raw, toy.data, toy.data / "none", "care", lora=True, lora_r=4)
    adapters = sum(p.numel() for p in policy_of(lora).trainable().values())
    guess = estimate(lora, inspect_model(str(toy.raw)), 1)
    assert guess.average == 4 * adapters
    assert guess.weights == 2 * n + 4 * adapters  # the base in bfloat16


def test_pinned_memory_is_taken_in_powers_of_two():
    shapes = [(10, 3), (5,), (128, 64), (1,)]
    # Of 4 processes each holds 3 x 3, 2, 32 x 64 and 1 numbers of 2 bytes: 18, 4, 4,096 and 2 bytes.
    assert _pinned(shapes, width=2, parts=4) == 32 + 4 + 4096 + 2
    assert _pinned(shapes, width=2, parts=1) == 64 + 16 + 16384 + 2


def test_the_estimates_options_save_what_they_say(toy):
    model = inspect_model(str(toy.raw))

    def of(world=1, questions=1, **options):
        config = toy_config(toy.raw, toy.data, toy.data / "none", "care", **options)
        guess = estimate(config, model, questions, world)
        return guess.device_bytes(config), guess.policy_pass

    plain, pass_ = of()
    for options in ({"optimizer_device": "cpu"}, {"lora": True}, {"freeze_vision": True}, {"fsdp": True, "world": 4}):
        assert of(**options)[0] < plain, options
    both = {"fsdp": True, "world": 4, "optimizer_device": "cpu"}
    assert of(**both)[0] < of(fsdp=True, world=4)[0]
    assert of(gradient_checkpointing=False)[1] > of(gradient_checkpointing=True)[1]
    assert of(shared_prefix=False)[1] > pass_
    long = {"max_completion_length": 2000}  # else the gradients of the chunk before outweigh what a chunk saves
    assert of(**long, group_chunk=1)[1] < of(**long)[1]
    assert of(questions=2)[1] > pass_  # the gradients of the first question's pass are there in the second


def test_checkpoints_that_the_disk_has_no_room_for_are_refused_before_anything_is_trained(toy, tmp_path, monkeypatch):
    config = toy_config(toy.raw, toy.data, tmp_path / "out", "care", max_steps=30, save_steps=10, save_total_limit=3)
    model = inspect_model(str(toy.raw))
    guess = replace(estimate(config, model, 1), checkpoint=149, weights_file=16.6)
    assert [round(guess.disk_bytes(config, n)) for n in (5, 20, 30, 1000)] == [149, 315, 331, 331]
    assert round(replace(guess).disk_bytes(replace(config, save_total_limit=None), 100)) == 298 + round(9 * 16.6)
    need = estimate(config, model, 1).disk_bytes(config, 30)
    room = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=need - 1))
    with pytest.raises(ResourceError, match=r"out will hold .* GB of checkpoints at once .* Nothing was trained"):
        plan_training(config)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=need))
    assert plan_training(config).n_steps == 30


def test_the_command_line_says_what_it_would_do(toy, tmp_path):
    from seedbench_r1.cli.app import app

    runner = CliRunner()
    given = ["train", "--algo", "care", "--model", str(toy.raw), "--data", str(toy.data), "--out", str(tmp_path / "o")]
    shown = runner.invoke(app, [*given, "--device", "cpu", "--lora", "--print-config"])
    assert json.loads(shown.stdout)["learning_rate"] == 1e-5
    dry = runner.invoke(app, [*given, "--device", "cpu", "--dry-run"])
    assert dry.exit_code == 0, dry.output
    assert "4 steps of 1 questions x 8 rollouts" in dry.stdout
    assert "estimated memory" in dry.stdout
    as_json = runner.invoke(app, [*given, "--device", "cpu", "--dry-run", "--json"])
    assert json.loads(as_json.stdout)["steps"] == 4
    assert not (tmp_path / "o").exists()
    refused = runner.invoke(app, ["train", "--model", str(toy.raw)])
    assert isinstance(refused.exception, ConfigError)
    # Rich would take [train] for a style, and print nothing.
    assert (
        "TOML with these options under [train]."
        in runner.invoke(app, ["train", "--help"], env={"COLUMNS": "200"}).stdout
    )


def test_rows_are_read_from_where_the_config_says(toy):
    assert len(read_data(toy_config(toy.raw, toy.data, toy.data / "none", "sft")).rows) == 16
    assert len(read_data(toy_config(toy.raw, toy.data, toy.data / "none", "care")).rows) == 4


def test_vllm_sampler_are_refused_before_a_model_is_loaded(toy, tmp_path, monkeypatch):
    import sys

    from seedbench_r1.cli.app import app

    for name in ("LOGGING_STREAM", "LOGGING_LEVEL", "NO_USAGE_STATS", "WORKER_MULTIPROC_METHOD"):
        monkeypatch.setenv(f"VLLM_{name}", "as it was")  # vLLM's defaults are set in the environment; not for others
    monkeypatch.setitem(sys.modules, "vllm", None)
    monkeypatch.setattr("trainers.loop.load_policy", lambda *given: pytest.fail("a model was loaded"))
    given = ["train", "--algo", "care", "--model", str(toy.raw), "--data", str(toy.data), "--out", str(tmp_path / "o")]
    for extra in ([], ["--dry-run"]):
        refused = CliRunner().invoke(app, [*given, "--device", "cpu", "--rollouts", "vllm", *extra])
        assert isinstance(refused.exception, ConfigError)
        assert refused.exception.exit_code == 3
        assert str(refused.exception) == (
            f"--rollouts vllm requested but not installed (python {sys.executable}). "
            "Fix, in the checkout: pip install '.[vllm]'  or  --rollouts builtin"
        )
    assert not (tmp_path / "o").exists()


def test_the_sampler_belongs_to_a_run_and_its_share_of_memory_does_not(tmp_path):
    config = resolved(tmp_path, algo="care", rollouts="vllm", gpu_memory_utilization=0.4)
    assert resume_identity(config)["rollouts"] == "vllm"
    assert resume_identity(config) == resume_identity(resolved(tmp_path, algo="care", rollouts="vllm"))
    assert resume_identity(resolved(tmp_path, algo="care"))["rollouts"] == "builtin"


def test_the_estimate_counts_vllms_weights_and_one_cache_per_prompt(toy):
    options = {"num_generations": 8, "dtype": "float32", "reference": "none", "bonus": "none", "algo": "grpo"}
    options |= {"preset": "grpo-nokl"}
    model = inspect_model(str(toy.raw))
    builtin = estimate(toy_config(toy.raw, toy.data, toy.data / "none", **options), model, 4)
    config = toy_config(toy.raw, toy.data, toy.data / "none", rollouts="vllm", **options)
    vllm = estimate(config, model, 4)
    per_token = 2 * 2 * 1 * 16 * 4  # 2 layers, keys and values, one head of 16, float32
    assert builtin.cache == 4 * 8 * (vllm.prompt_tokens + 16) * per_token
    assert vllm.cache == 4 * (vllm.prompt_tokens + 8 * 16) * per_token
    assert vllm.sampling == vllm.weights + vllm.cache  # a copy of its own
    assert builtin.sampling > builtin.cache


def test_the_mismatch_of_sampler_and_policy_by_hand(tmp_path):
    from trainers.groups import Group, Rollout, SamplerMismatch
    from trainers.grpo import sampler_mismatch

    def recorded(*logprobs):
        return Rollout(tuple(range(len(logprobs))), "", "stop", logprobs)

    policy = torch.tensor([[-1.0, -2.0], [-3.0, 0.0]])  # the second rollout has one token
    group = Group(None, (recorded(-1.0, -2.5), recorded(-3.25)))
    found = sampler_mismatch(group, policy, resolved(tmp_path, algo="care"))
    assert found.gap == pytest.approx((0 + 0.5 + 0.25) / 3)
    assert found.ratio == pytest.approx((1 + math.exp(0.5) + math.exp(0.25)) / 3)
    assert sampler_mismatch(group, policy, resolved(tmp_path, algo="care", temperature=0.9)) is None
    unrecorded = Group(None, (Rollout((0,), "", "stop"), Rollout((0,), "", "stop")))
    assert sampler_mismatch(unrecorded, policy, resolved(tmp_path, algo="care")) is None
    measured = [SamplerMismatch(0.1, 1.2), SamplerMismatch(0.3, 1.0), None]
    reports = [Report([rollout()], 0.0, None, 1, 0, value) for value in measured]
    metrics = grpo_metrics(reports)
    assert metrics["rollout_logprob_gap"] == pytest.approx(0.2)
    assert metrics["rollout_ratio"] == pytest.approx(1.1)
    assert grpo_metrics(reports[2:])["rollout_logprob_gap"] is None


def test_adapters_are_merged_as_peft_merges_them_and_stay(toy):
    from trainers.merging import whole_parameters

    config = toy_config(toy.raw, toy.data, toy.data / "none", "care", lora=True, lora_r=4, lora_alpha=8)
    policy = policy_of(config)
    for name, parameter in policy.trainable().items():
        parameter.data.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    found = dict(whole_parameters(policy.model, policy.dtype))
    assert all(torch.equal(value, before[name]) for name, value in policy.model.state_dict().items())
    plain = dict(policy_of(toy_config(toy.raw, toy.data, toy.data / "none", "care")).model.named_parameters())
    assert found.keys() == plain.keys()
    changed = [name for name in found if not torch.equal(found[name], plain[name])]
    assert len(changed) == 2 * 7  # layers, projections
    expected = dict(policy.adapter.merge_and_unload().named_parameters())
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert not any(value.requires_grad for value in found.values())


def test_frames_are_kept_for_vllm_alone(toy):
    from seedbench_r1.models.qwen_vl import load_processor
    from trainers.data import StepData

    for rollouts, kept in (("builtin", False), ("vllm", True)):
        config = toy_config(toy.raw, toy.data, toy.data / "none", "grpo", rollouts=rollouts)
        stream = QuestionStream(read_data(config).rows, config.seed)
        with StepData(config, load_processor(str(toy.raw)), stream, questions_per_step=1) as data:
            ((example,), _) = data.next_step()
        assert (example.request is not None) == kept
        assert example.request is None or example.request.question_id == example.question.question_id


class FullEngine:
    """Stands for an engine whose memory runs out with `words`."""

    words, needs_weights, max_model_len = "", True, 0

    def __init__(self, *given, **options) -> None:
        pass

    def load_weights(self, weights) -> None:
        raise RuntimeError(self.words)

    def sleep(self) -> None:
        pass


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("CUDA out of memory. Tried to allocate 2 GiB.", ResourceError),
        ("CUDA Error: out of memory at cumem_allocator.cpp:62", ResourceError),  # of the allocator that wakes
        ("mat1 and mat2 shapes cannot be multiplied", RuntimeError),
    ],
)
def test_memory_that_runs_out_in_vllm_is_explained(toy, monkeypatch, words, expected):
    from trainers import vllm_sampler

    monkeypatch.setattr(vllm_sampler, "ColocatedEngine", FullEngine)
    monkeypatch.setattr(FullEngine, "words", words)
    config = toy_config(toy.raw, toy.data, toy.data / "none", "care", rollouts="vllm")
    processes = Processes("cpu")
    sampler = vllm_sampler.VllmSampler(policy_of(config), config, processes)
    with pytest.raises(expected) as raised:
        sampler.sample([])
    assert processes.stage == "weights for vLLM"
    assert type(raised.value) is expected
    assert ("--gpu-memory-utilization" in str(raised.value)) == (expected is ResourceError)


@pytest.mark.parametrize(
    "options", [{"rollouts": "trl"}, {"gpu_memory_utilization": 0.0}, {"algo": "sft", "rollouts": "vllm"}]
)
def test_samplers_that_cannot_be(tmp_path, options):
    with pytest.raises(ConfigError, match=r"--rollouts|--gpu-memory-utilization"):
        resolved(tmp_path, **{"algo": "care"} | options)


def write_toml(folder: Path, text: str) -> Path:
    path = folder / "seedbench-r1.toml"
    path.write_text(text)
    return path


def test_the_train_table_of_a_file_is_below_environment_and_options(tmp_path):
    file = write_toml(
        tmp_path,
        'data_root = "eval"\n[eval]\nbatch_size = 3\n[train]\nalgo = "care"\nmodel = "org/name"\ndata = "rows"\n'
        'out = "out"\ntrain-file = "t.jsonl"\nlora = true\nmax-frames = 8\nbonus_margin = 0.01\nsave_steps = 7\n',
    )
    config = resolve_train_config({"save_steps": 9, "lora": False}, config_file=file, environ={})
    assert (config.algo, config.model, config.data) == ("care", "org/name", tmp_path / "rows")
    assert (config.out, config.train_file) == (tmp_path / "out", tmp_path / "t.jsonl")
    assert (config.save_steps, config.lora, config.bonus_margin, config.video.max_frames) == (9, False, 0.01, 8)
    found = resolve_train_config({}, environ={"SBR1_DATA_ROOT": "/env"}, working_dir=tmp_path)
    assert (found.data, found.save_steps, found.lora) == (Path("/env"), 7, True)
    given = resolve_train_config({"data": Path("/given")}, config_file=file, environ={"SBR1_DATA_ROOT": "/env"})
    assert given.data == Path("/given")
    other = resolve_train_config({"preset": "grpo-nokl"}, config_file=file, environ={})  # sets the file's algo aside
    assert (other.algo, other.bonus) == ("grpo", "none")
    measured = resolve_eval_config({"model": "m"}, config_file=file, environ={})
    assert (measured.batch_size, measured.data_root) == (3, tmp_path / "eval")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nmax_stepz = 3", r"seedbench-r1\.toml: unknown key 'max_stepz' of \[train\]\. Did you mean 'max_st"),
        ("[train]\nbatch_size = 3", "unknown key 'batch_size'"),  # a key of [eval]
        ("[eval]\nbatch_size = 3", r"has no table \[train\]"),
        ("train = 3", r"has no table \[train\]"),
        ("[train]\nout = 3", "out is 3, expected a path"),
        ('[train]\nlearning_rate = "1e-6"', "learning_rate is '1e-6', expected float"),
        ("[train]\nfps = 0", "--fps is 0"),
        ("[train]\nmax_steps = true", "max_steps is True, expected int"),
    ],
)
def test_a_bad_train_table_is_named(tmp_path, text, message):
    file = write_toml(tmp_path, text)
    options = {"algo": "care", "model": "m", "data": tmp_path} | ({} if "out" in text else {"out": tmp_path / "out"})
    with pytest.raises(ConfigError, match=message):
        resolve_train_config(options, config_file=file, environ={})


def test_a_default_file_without_a_train_table_is_no_error(tmp_path):
    write_toml(tmp_path, "[eval]\nbatch_size = 3\n")
    options = {"algo": "care", "model": "m", "data": tmp_path, "out": tmp_path / "out"}
    assert resolve_train_config(options, environ={}, working_dir=tmp_path).save_steps == 100


RELEASED = {  # the sizes of Qwen2.5-VL 3B and 7B
    "3b": (16, 2, 11008),
    "7b": (28, 4, 18944),
}


@pytest.mark.parametrize(
    ("model", "node", "asked", "found"),
    [
        ("7b", 1, None, 1),
        ("7b", 4, None, 4),
        # 28 heads are not divisible by 8, nor is the vision tower's 3,420.
        ("7b", 8, None, 4),
        ("3b", 8, None, 4),
        ("7b", 6, None, 2),
        ("7b", 4, 2, 2),
        ("7b", 4, 3, r"--rollout-tensor-parallel 3 does not divide the 4 processes of this node"),
        ("7b", 8, 8, r"--rollout-tensor-parallel 8 cannot split .*: it has 28 attention heads"),
        ("3b", 8, 8, r"it has 3420 feed-forward units in the vision tower"),
    ],
)
def test_an_engine_spreads_over_as_many_processes_as_divide_the_model(tmp_path, model, node, asked, found):
    from trainers.vllm_sampler import tensor_parallel_size

    heads, keys, inner = RELEASED[model]
    sizes = {"num_attention_heads": heads, "num_key_value_heads": keys, "intermediate_size": inner}
    described = {"text_config": sizes, "vision_config": {"num_heads": 16, "intermediate_size": 3420}}
    more = {} if asked is None else {"rollout_tensor_parallel": asked}
    config = resolved(tmp_path, algo="care", rollouts="vllm", **more)
    if isinstance(found, int):
        # In the nested layout, and in the flat one of older releases.
        for form in (described, sizes | {"vision_config": described["vision_config"]}):
            assert tensor_parallel_size(config, form, world_size=2 * node, node_size=node) == found
    else:
        with pytest.raises(ConfigError, match=found):
            tensor_parallel_size(config, described, world_size=node, node_size=node)


def test_a_large_model_is_not_trained_on_a_cpu_unasked(toy, tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.plan.MOST_ON_CPU", 1000)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    def too_old():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11040).\nPlease update it.")

    monkeypatch.setattr(torch.cuda, "init", too_old)
    config = toy_config(toy.raw, toy.data, tmp_path, "sft")
    assert plan_training(config).done == 0  # it says --device cpu
    with pytest.raises(
        ConfigError, match=r"driver on your system is too old \(found version 11040\)\.\).*--device cpu"
    ):
        plan_training(replace(config, device="auto"))
    with pytest.raises(ConfigError, match="sees no GPU: The NVIDIA driver on your system is too old"):
        resolve_device("cuda")


def test_under_fsdp_every_question_has_media(toy, tmp_path, monkeypatch):
    rows = read_data(toy_config(toy.raw, toy.data, tmp_path, "care")).rows
    bare = replace(rows[1], question=replace(rows[1].question, image=None, video=None))
    data = TrainingData([rows[0], bare, *rows[2:]])
    monkeypatch.setattr("trainers.plan.read_data", lambda config, bad: data)
    assert plan_training(toy_config(toy.raw, toy.data, tmp_path, "care"), world_size=2).done == 0
    with pytest.raises(DataError, match=rf"{bare.question.question_id} has neither image nor clip.*--fsdp"):
        plan_training(toy_config(toy.raw, toy.data, tmp_path, "care", fsdp=True), world_size=2)
