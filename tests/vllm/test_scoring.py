"""Continuations scored by vLLM, against the transformers backend on the same checkpoint."""

from __future__ import annotations

import pytest

from seedbench_r1.types import Failure, Generation, SamplingConfig
from tests.continuations import LETTERS, TEXTS, asked
from tests.tiny_models import tiny_checkpoint

TOLERANCE = 1e-4  # natural log; float32 through other kernels in another order
GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8, logprobs=True)


@pytest.fixture(scope="module")
def transformers():
    from seedbench_r1.backends.transformers import TransformersBackend

    return TransformersBackend(str(tiny_checkpoint("qwen2_5_vl")), dtype="float32", device="cpu", batch_size=2)


@pytest.mark.parametrize("continuations", [LETTERS, TEXTS], ids=["letters", "texts"])
def test_scores_are_those_of_the_transformers_backend(qwen2_5_vl, transformers, continuations):
    expected = dict(transformers.score(asked("qwen2_5_vl", continuations)))
    found = dict(qwen2_5_vl.score(asked("qwen2_5_vl", continuations)))
    assert found.keys() == expected.keys()
    for question_id, scores in expected.items():
        assert found[question_id] == pytest.approx(scores, abs=TOLERANCE)


def test_a_prefix_is_continued_by_the_same_tokens(qwen2_5_vl, transformers):
    expected = dict(transformers.generate(asked("qwen2_5_vl"), GREEDY))
    found = dict(qwen2_5_vl.generate(asked("qwen2_5_vl"), GREEDY))
    assert found.keys() == expected.keys()
    for question_id, generation in found.items():
        assert isinstance(generation, Generation)
        assert generation.token_ids == expected[question_id].token_ids
        assert generation.logprobs == pytest.approx(expected[question_id].logprobs, abs=TOLERANCE)


def test_continuations_that_cannot_be_told_apart_fail_alone(qwen2_5_vl):
    sound, equal = asked("qwen2_5_vl", LETTERS)[0], asked("qwen2_5_vl", ("A", "A"))[1]
    results = dict(qwen2_5_vl.score([equal, sound]))
    assert isinstance(results[equal.question_id], Failure)
    assert len(results[sound.question_id]) == len(LETTERS)
