"""Memory or disk runs out in the middle: said with what to lower, nothing of the training lost, no half checkpoint."""

import dataclasses
import resource
import shutil
from collections import namedtuple

import pytest
import torch

from seedbench_r1.errors import ResourceError
from seedbench_r1.models.checkpoint import list_checkpoints
from tests.trainers.toy import plan_and_train, toy_config

STEPS = {"max_steps": 3, "save_steps": 1, "num_generations": 2, "beta": 0.1}  # with a KL penalty every step has a pass


@pytest.fixture
def config(toy, tmp_path):
    return toy_config(toy.raw, toy.data, tmp_path / "out", "care", **STEPS)


@pytest.fixture
def file_size_limit():
    """Sets the largest file that this process may write: the kernel refuses the rest, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("written_by", ["safetensors", "torch"])
def test_a_write_that_the_kernel_refuses_leaves_the_last_checkpoint(config, toy, file_size_limit, written_by):
    weights = (toy.raw / "model.safetensors").stat().st_size
    limit = {"safetensors": weights // 2, "torch": weights + 4096}[written_by]

    def observe(metrics):
        if metrics["step"] == 2:
            file_size_limit(limit)

    with pytest.raises(
        ResourceError, match=r"checkpoint-2 cannot be written .*step 2; last good .*checkpoint-1\."
    ) as seen:
        plan_and_train(config, observe=observe)
    file_size_limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert seen.value.exit_code == 7
    assert [folder.name for folder in list_checkpoints(config.out)] == ["checkpoint-1"]
    assert not list(config.out.glob(".checkpoint*"))
    assert plan_and_train(config).finished


def test_a_checkpoint_is_not_begun_without_space_for_it(config, monkeypatch):
    usage = namedtuple("usage", "total used free")
    free = iter([10**12, 10**12, 1000, 1000])  # in the plan, at the first checkpoint, at the second, for the message
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**12, 0, next(free)))
    with pytest.raises(ResourceError, match=r"checkpoint-2 cannot be written .*needed; 0\.0 GB free.*checkpoint-1"):
        plan_and_train(config)
    assert [folder.name for folder in list_checkpoints(config.out)] == ["checkpoint-1"]
    assert not list(config.out.glob(".checkpoint*"))


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("trainers.grpo.group_logprobs", "--group-chunk 1 or --optimizer-device cpu, with which the same command"),
        ("trainers.policy_passes.groups_logprobs", "a lower --max-packed-tokens or none"),
        ("trainers.samplers.decode", "a smaller --rollout-batch-size or --optimizer-device cpu"),
    ],
)
def test_out_of_memory_says_what_to_lower_and_keeps_what_was_saved(config, monkeypatch, place, advice):
    if "packed" in advice:
        config = dataclasses.replace(config, max_packed_tokens=1000)

    def exhaust(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def observe(metrics):
        if metrics["step"] == 1:
            monkeypatch.setattr(place, exhaust)

    with pytest.raises(ResourceError, match=rf"Out of memory .*{advice}.*continues from the last checkpoint") as seen:
        plan_and_train(config, observe=observe)
    assert seen.value.exit_code == 7
    # Advised is what is not in use yet, and what continues is kept apart from what does not.
    assert "another --out, --fsdp in several processes, --lora, --freeze-vision" in str(seen.value)
    sharded = dataclasses.replace(config, fsdp=True).memory_advice()
    assert sharded.startswith("Fix: more processes or --optimizer-device cpu, with which")
    assert "--fsdp" not in sharded
    assert "--optimizer-device cpu, with" in dataclasses.replace(config, fsdp=True, lora=True).memory_advice()
    assert [folder.name for folder in list_checkpoints(config.out)] == ["checkpoint-1"]
    monkeypatch.undo()
    assert plan_and_train(config).finished


def test_a_connection_that_breaks_while_saving_is_no_full_disk(config, monkeypatch):
    def broken(*given, **options):
        raise torch.distributed.DistBackendError("NCCL error: remote process exited")

    monkeypatch.setattr("trainers.checkpoints._publish", broken)
    with pytest.raises(torch.distributed.DistBackendError, match="remote process exited"):
        plan_and_train(config)
    monkeypatch.undo()
    assert plan_and_train(config).finished
