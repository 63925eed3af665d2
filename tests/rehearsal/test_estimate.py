"""The arithmetic of `train --dry-run` agrees with what the code was counted to take: both ways, within 5 %."""

import json
import struct
from types import SimpleNamespace

import pytest
import torch

from tests.benchmarks import gpu_step
from tests.rehearsal.baseline import CASES, peak_gb, read
from tests.rehearsal.step import Case
from trainers.estimate import estimate

CLOSE = 0.05


@pytest.fixture(scope="module", params=["3b", "7b"])
def checkpoint(request, tmp_path_factory):
    """config.json and the headers of the weights' file: all that an estimate reads."""
    folder = tmp_path_factory.mktemp(request.param)
    model = gpu_step.build(request.param, torch.device("meta"))
    tied = model.config.tie_word_embeddings
    shapes = {
        name: {"shape": list(value.shape)}
        for name, value in model.named_parameters()
        if not tied or "lm_head" not in name
    }
    header = json.dumps(shapes).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    return SimpleNamespace(name=request.param, folder=folder, base_folder=None, config=model.config.to_dict())


def cases_of(checkpoint) -> list[Case]:
    # Estimates are for prompts as long as the pixel limits allow.
    return [case for case in CASES if case.model == checkpoint.name and case.prompt == Case.prompt]


def test_memory_and_arithmetic_agree_with_the_rehearsal(checkpoint):
    stored, apart = read(), {}
    for case in cases_of(checkpoint):
        guess = estimate(case.config, checkpoint, case.questions, case.processes)
        stages = stored[case.name]
        assert guess.prompt_tokens == case.prompt
        memory = guess.device_bytes(case.config) / 1e9 / peak_gb(stages.values()) - 1
        flops = guess.flops / 1e12 / sum(stage.tflop for stage in stages.values()) - 1
        passes = [stage for name, stage in stages.items() if name == "policy vision"]
        chunks = -(-case.group // (case.group_chunk or case.group)) if case.preset != "sft" else 1
        vision = guess.vision_flops / 1e12 / (passes[0].tflop / chunks / case.questions) - 1
        apart[case.name] = {"memory": memory, "flops": flops, "vision": vision}
    far = {case: shares for case, shares in apart.items() if max(map(abs, shares.values())) > CLOSE}
    assert not far
