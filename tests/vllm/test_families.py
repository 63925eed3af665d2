"""vLLM and the transformers backend on the families of models/generic.py, and on those without float32 kernels."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.models.families import GENERIC
from tests.family_table import BFLOAT16, QWEN, TABLE, WHY_NOT, answers, asked, backend, checkpoint
from tests.vllm.conftest import open_family

FLOAT32, ROUNDED = 1e-4, 0.1  # natural log


# An engine takes half a minute: of families that share their code in vLLM one is tried each time.
SLOW = {"qwen3_5_moe", "glm4v", "glm4v_moe", "gemma4", "lfm2_vl"}
REFUSED = {family.model_type for family in GENERIC if family.vllm_refused}  # tests/unit/test_generic.py
CASES = [
    pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
    for name in TABLE
    if (name not in QWEN or name in BFLOAT16) and name not in REFUSED | {"molmo2"}
]


@pytest.mark.parametrize("family", CASES)
def test_tokens_and_logprobs_are_those_of_transformers(family):
    if (family, "vllm") not in WHY_NOT:
        compare(family)
        return
    with pytest.raises(AssertionError):
        compare(family)


def test_the_transformers_of_vllm_lacks_molmo2():
    """If it has it by now, the table's reason is no longer true."""
    assert ("molmo2", "vllm") in WHY_NOT
    assert not hasattr(transformers, "Molmo2Config")


def compare(family: str) -> None:
    dtype = "bfloat16" if family in BFLOAT16 else "float32"
    opened = open_family(family)
    try:
        found = answers(opened, asked(family))
    finally:
        opened.close()
    ours = backend(family) if dtype == "float32" else TransformersBackend(str(checkpoint(family)), dtype=dtype)
    for name, expected in answers(ours, asked(family)).items():
        assert found[name].n_prompt_tokens == expected.n_prompt_tokens
        if dtype == "float32":
            assert found[name].token_ids == expected.token_ids
            assert np.abs(np.subtract(found[name].logprobs, expected.logprobs)).max() < FLOAT32
        else:
            # Two tokens that are all but equally likely may change places; up to there the numbers agree.
            pairs = zip(found[name].token_ids, expected.token_ids, strict=False)
            same = next((place for place, (one, other) in enumerate(pairs) if one != other), len(expected.token_ids))
            assert same >= 1
            gap = np.subtract(found[name].logprobs[:same], expected.logprobs[:same])
            assert np.abs(gap).max() < ROUNDED
