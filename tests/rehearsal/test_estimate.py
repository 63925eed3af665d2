"""The arithmetic of `train --dry-run` agrees with what the code was counted to take: both ways, within 5 %."""

import pytest

from tests.rehearsal.baseline import CASES, peak_gb, read
from tests.rehearsal.hardware import DOCUMENT, document, headers_of
from tests.rehearsal.step import Case
from trainers.estimate import estimate

CLOSE = 0.05


@pytest.fixture(scope="module", params=["3b", "7b"])
def checkpoint(request, tmp_path_factory):
    return headers_of(request.param, tmp_path_factory.mktemp("model") / request.param)


def cases_of(checkpoint) -> list[Case]:
    # Estimates are for prompts as long as the pixel limits allow.
    return [case for case in CASES if case.model == checkpoint.folder.name and case.prompt == Case.prompt]


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


def test_the_table_of_the_docs_is_the_estimates():
    assert DOCUMENT.read_text(encoding="utf-8") == document(), "run: python -m tests.docs_tables"
