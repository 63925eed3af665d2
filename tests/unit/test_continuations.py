"""Continuations scored on a shared prefix, against a fresh prefill of everything before each of their tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seedbench_r1.backends.base import Scorer
from seedbench_r1.backends.continuations import part
from seedbench_r1.backends.decoding import Prompt, end_token_ids, prefill_any
from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.backends.transformers import TransformersBackend
from seedbench_r1.models.generic import GenericInputs
from seedbench_r1.types import Failure, SamplingConfig
from tests.continuations import LETTERS, PREFIX, TEXTS, asked
from tests.family_table import checkpoint
from tests.tiny_models import FAMILIES, tiny_checkpoint

GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=10, logprobs=True)
# Sliding windows, states of short convolutions, positions on three axes, and none of these.
OTHERS = ("gemma3", "glm4v", "internvl")


@pytest.fixture(scope="module", params=[*FAMILIES, *OTHERS])
def case(request):
    """A family's backend and its requests."""
    backend = TransformersBackend(str(checkpoint(request.param)), device="cpu", batch_size=3)
    return backend, lambda texts=(): asked(request.param, texts)


def by_fresh_prefills(backend, request):
    """The scores, each token's log-probability from a prefill of its own: no cache, no batch, nothing shared."""
    scores = []
    for text, ending in zip(request.continuations, part(request, backend.processor).endings, strict=True):
        whole = backend.processor.prepare(replace(request, prefix=request.prefix + text))
        ids, total = whole.input_ids.tolist(), 0.0
        for back in range(len(ending), 0, -1):
            logits = prefill_any(backend.model, backend.processor, [Prompt("one", without(whole, back))], 0)[0]
            total += float(logits[0].double().log_softmax(0)[ids[-back]])
        scores.append(total)
    return scores


def without(inputs, n):
    """The prompt without its last n tokens."""
    if isinstance(inputs, GenericInputs):
        length = len(inputs.input_ids)
        cut = {
            name: value[:, :-n] if isinstance(value, torch.Tensor) and value.shape == (1, length) else value
            for name, value in inputs.arguments.items()
        }
        return GenericInputs(inputs.input_ids[:-n], cut)
    return replace(inputs, input_ids=inputs.input_ids[:-n], positions=inputs.positions[:, :-n])


@pytest.mark.parametrize("texts", [LETTERS, TEXTS], ids=["letters", "texts"])
def test_scores_are_those_of_fresh_prefills(case, texts):
    backend, requests = case
    found = dict(backend.score(requests(texts)))
    for one in requests(texts):
        assert found[one.question_id] == pytest.approx(by_fresh_prefills(backend, one), abs=2e-5)


def test_a_prefix_is_continued(case):
    """The first new token is the likeliest after prompt and prefix, and is given out as every token is."""
    backend, requests = case
    generations = dict(backend.generate(requests(), GREEDY))
    assert generations.keys() == {request.question_id for request in requests()}
    for one in requests():
        generation = generations[one.question_id]
        prompt = backend.processor.prepare(one)
        assert backend.processor.tokenizer.decode(prompt.input_ids[-30:]).endswith(PREFIX[-20:])
        assert len(prompt.input_ids) == generation.n_prompt_tokens
        logits = prefill_any(backend.model, backend.processor, [Prompt("one", prompt)], 0)[0][0].double()
        logprobs = logits.log_softmax(0)  # of all tokens, those too that are never drawn
        logits[list(backend.processor.forbidden_ids)] = float("-inf")
        if generation.token_ids:
            assert generation.token_ids[0] == int(logits.argmax())
            assert generation.logprobs[0] == pytest.approx(float(logprobs[logits.argmax()]), abs=2e-5)
        else:
            assert int(logits.argmax()) in end_token_ids(backend.model, backend.processor.tokenizer)
        assert PREFIX not in generation.text


def test_texts_that_cannot_be_told_apart_fail_alone(case):
    backend, requests = case
    first, second, third, *_ = requests(LETTERS)
    results = dict(
        backend.score([replace(first, continuations=("A", "A")), replace(second, continuations=("A", "AB")), third])
    )
    assert "cannot be distinguished" in results[first.question_id].message
    assert "'A'" in results[second.question_id].message
    assert not isinstance(results[third.question_id], Failure)


def test_a_prefix_that_spells_a_placeholder_fails_alone():
    backend = TransformersBackend(str(tiny_checkpoint("qwen2_5_vl")), device="cpu", batch_size=3)
    first, second, *_ = asked(continuations=LETTERS)
    results = dict(backend.score([replace(first, prefix="<|video_pad|>"), second]))
    assert "placeholders" in results[first.question_id].message
    assert not isinstance(results[second.question_id], Failure)


def test_nan_weights_are_a_failure_and_no_score():
    backend = TransformersBackend(str(tiny_checkpoint("qwen2_5_vl")), device="cpu", batch_size=3)
    with torch.no_grad():
        backend.model.lm_head.weight[3] = float("nan")
    requests = asked(continuations=LETTERS)
    results = dict(backend.score(requests))
    assert results.keys() == {request.question_id for request in requests}
    for result in results.values():
        assert isinstance(result, Failure)
        assert "not finite" in result.message


def test_who_can_score():
    assert issubclass(TransformersBackend, Scorer)
    assert not isinstance(FakeBackend(lambda request, k: ""), Scorer)


@pytest.mark.parametrize(("texts", "most"), [(LETTERS, 1.005), (TEXTS, 1.2)], ids=["letters", "texts"])
def test_scoring_costs_hardly_more_than_a_prefill(texts, most):
    """Against four passes over prompt, prefix and option, and against one over prompt and prefix."""
    backend = TransformersBackend(str(tiny_checkpoint("qwen2_5_vl")), device="cpu", batch_size=1)
    (one,) = [request for request in asked(continuations=texts) if request.question_id == "L1/minute"]
    with FlopCounterMode(display=False) as scoring:
        list(backend.score([one]))
    with FlopCounterMode(display=False) as prefill:
        prompt = backend.processor.prepare(replace(one, continuations=()))
        prefill_any(backend.model, backend.processor, [Prompt("one", prompt)], 0)
    with FlopCounterMode(display=False) as naive:
        for text in texts:
            whole = backend.processor.prepare(replace(one, prefix=one.prefix + text, continuations=()))
            prefill_any(backend.model, backend.processor, [Prompt("one", whole)], 0)
    assert scoring.get_total_flops() < most * prefill.get_total_flops()
    assert naive.get_total_flops() > 3.3 * scoring.get_total_flops()
