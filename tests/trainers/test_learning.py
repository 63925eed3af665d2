"""It must learn: SFT, and then GRPO from what SFT has made, raise the reward of a toy task."""

import pytest

from seedbench_r1.runs.training_snapshot import read_lines
from tests.trainers.toy import plan_and_train, toy_config

SEEDS = [42, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]


@pytest.mark.parametrize("seed", SEEDS)
def test_sft_then_grpo_raises_the_reward(toy, tmp_path, seed):
    """Four questions; SFT has trained the form with a random letter, so that a quarter is accurate."""
    lines = read_lines(toy.sft.parent / "metrics.jsonl")
    assert lines[-1]["loss"] < lines[0]["loss"] / 5
    settings = {"gradient_accumulation_steps": 4, "learning_rate": 3e-3, "save_steps": 1000, "max_steps": 120}
    plan_and_train(toy_config(toy.sft, toy.data, tmp_path, "grpo", preset="grpo-nokl", seed=seed, **settings))
    rewards = [line["reward"] for line in read_lines(tmp_path / "metrics.jsonl")]
    start, end = sum(rewards[:10]) / 10, sum(rewards[-10:]) / 10
    assert end > start + 0.3, (start, end)
