"""A vLLM engine that goes on with another checkpoint's weights."""

from __future__ import annotations

import json
import shutil

import pytest

from seedbench_r1.demo.tiny_model import write_tiny_checkpoint
from seedbench_r1.types import SamplingConfig
from tests.continuations import asked
from tests.tiny_models import WORDS, tiny_checkpoint
from tests.vllm.conftest import open_vllm

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8, logprobs=True)


def answers(backend):
    return {i: (generation.token_ids, generation.logprobs) for i, generation in backend.generate(asked(), GREEDY)}


def test_it_answers_as_an_engine_of_its_own_and_refuses_what_is_no_sibling(tmp_path):
    from seedbench_r1.backends.transformers import TransformersBackend

    first, second = (
        write_tiny_checkpoint(tmp_path / str(seed), vocabulary_texts=[WORDS], seed=seed) for seed in (1, 2)
    )
    engine = open_vllm(first)
    try:
        before = answers(engine)
        assert engine.replace_weights(str(second))
        after = answers(engine)
        expected = answers(TransformersBackend(str(second), dtype="float32", device="cpu"))
        assert after.keys() == expected.keys()
        for question_id, (tokens, logprobs) in expected.items():
            assert after[question_id][0] == tokens
            assert after[question_id][1] == pytest.approx(logprobs, abs=1e-4)
        assert {i: tokens for i, (tokens, _) in before.items()} != {i: tokens for i, (tokens, _) in after.items()}
        # Back again: nothing of the second is left in a cache.
        assert engine.replace_weights(str(first))
        assert {i: t for i, (t, _) in answers(engine).items()} == {i: t for i, (t, _) in before.items()}
        assert not engine.replace_weights(str(tiny_checkpoint("qwen2_vl")))
        other = shutil.copytree(second, tmp_path / "other-template")
        config = json.loads((other / "tokenizer_config.json").read_text())
        (other / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 7}))
        assert not engine.replace_weights(str(other))
    finally:
        engine.close()
