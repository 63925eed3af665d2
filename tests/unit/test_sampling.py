"""Drawing tokens: equal to transformers' filters, exact against the probabilities, reproducible."""

from __future__ import annotations

import math
import random

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from seedbench_r1.backends.sampling import draw, next_tokens, row_generator
from seedbench_r1.types import SamplingConfig


def config(**options):
    return SamplingConfig(**{"temperature": 1.0, "top_p": 1.0, "top_k": 0} | options)


def shares(scores, sampling, n=20_000):
    """How often each token is drawn when the uniform number runs evenly through [0, 1)."""
    uniform = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    tokens = draw(scores.expand(n, -1), sampling, uniform)
    return torch.bincount(tokens, minlength=scores.shape[-1]) / n


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.3},
        {"top_k": 5},
        {"top_p": 0.7},
        {"temperature": 1.7, "top_k": 11, "top_p": 0.9},
        {"top_p": 0.001, "temperature": 0.1},
        {"top_k": 1},
        {"top_k": 1000},
    ],
)
def test_shares_equal_transformers_probabilities(options):
    sampling = config(**options)
    scores = torch.randn(1, 40, generator=torch.Generator().manual_seed(3)) * 2
    warpers = LogitsProcessorList([TemperatureLogitsWarper(sampling.temperature)])
    if sampling.top_k:
        warpers.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(TopPLogitsWarper(sampling.top_p))
    expected = warpers(torch.zeros(1, 0, dtype=torch.long), scores.clone()).softmax(-1)[0]
    # an even sweep hits each token within one part in n of its probability, and never one that is filtered out
    torch.testing.assert_close(shares(scores[0], sampling), expected, rtol=0, atol=1e-4)


def test_three_tokens_by_hand():
    scores = torch.tensor([[0.5, 0.3, 0.2]]).log().expand(5, -1)
    uniform = torch.tensor([0.0, 0.49, 0.51, 0.79, 0.81], dtype=torch.float64)
    assert draw(scores, config(), uniform).tolist() == [0, 0, 1, 1, 2]
    # top_p 0.6 keeps two tokens: 0.5 and 0.3 of 0.8
    assert draw(scores, config(top_p=0.6), uniform).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("options", [{"top_k": 50}, {"top_p": 0.3}, {"top_p": 0.999}, {"top_k": 3000, "top_p": 0.9}])
@pytest.mark.parametrize("spread", [0.01, 4.0])
def test_what_is_left_is_a_head_of_the_stable_order(options, spread):
    """Without sorting all: logits in bfloat16 are equal by the dozen, and a flat row needs more than the head."""
    drawn = torch.Generator().manual_seed(0)
    scores = (spread * torch.randn(40, 5000, generator=drawn)).bfloat16().float()
    scores[:, ::7] = float("-inf")
    scores[:, 1::11] = -0.0
    uniform = torch.rand(40, generator=drawn, dtype=torch.float64)
    sampling = config(temperature=1.3, **options)
    found = draw(scores, sampling, uniform).tolist()
    for row, number, token in zip(scores, uniform.tolist(), found, strict=True):
        values, order = row.sort(descending=True, stable=True)
        head = values[: options.get("top_k", len(values))]
        mass = (head / 1.3).softmax(0).double()
        before = mass.cumsum(0) - mass
        mass = mass[before < options.get("top_p", 2.0)]
        place = int((mass.cumsum(0) <= number * mass.sum()).sum())
        assert token == int(order[place])


def test_a_number_next_to_one_never_draws_an_impossible_token():
    scores = torch.tensor([[0.0, 1.0, float("-inf"), float("-inf")]])
    almost = torch.tensor([math.nextafter(1.0, 0.0)], dtype=torch.float64)
    assert draw(scores, config(), almost).tolist() == [1]
    assert draw(scores, config(top_k=3), almost).tolist() == [0]


def test_greedy_takes_the_largest_and_no_random_number():
    generator = random.Random(0)
    state = generator.getstate()
    tokens, logprobs = next_tokens(torch.tensor([[1.0, 3.0, 2.0]]), config(temperature=0.0), [generator])
    assert tokens.tolist() == [1]
    assert logprobs is None
    assert generator.getstate() == state


def test_forbidden_tokens_are_never_drawn():
    logits = torch.tensor([[50.0, 1.0, 0.0, 49.0]])
    forbidden = torch.tensor([0, 3])
    for options in ({"temperature": 0.0}, {}, {"top_p": 0.1}, {"top_k": 2}):
        drawn = {
            int(next_tokens(logits, config(**options), [row_generator(seed, "q", 0)], forbidden_ids=forbidden)[0])
            for seed in range(50)
        }
        assert drawn <= {1, 2}


def test_logprobs_are_of_the_raw_logits():
    logits = torch.tensor([[1.0, 3.0, 2.0]], dtype=torch.bfloat16)
    seen = torch.tensor([[False, True, False]])
    sampling = config(temperature=0.2, top_k=1, repetition_penalty=2.0, logprobs=True)
    tokens, logprobs = next_tokens(logits, sampling, [random.Random(0)], forbidden_ids=torch.tensor([0]), seen=seen)
    assert tokens.tolist() == [2]  # 3 / 2 is less than 2
    by_hand = 2.0 - math.log(math.exp(1) + math.exp(3) + math.exp(2))
    assert logprobs.dtype == torch.float32
    assert float(logprobs) == pytest.approx(by_hand, abs=1e-6)


def test_the_penalty_equals_transformers():
    logits = torch.tensor([[2.0, -1.0, 2.1, -3.0]])
    ids = torch.tensor([[2, 1]])
    expected = RepetitionPenaltyLogitsProcessor(1.3)(ids, logits.clone())
    seen = torch.tensor([[False, True, True, False]])
    sampling = config(repetition_penalty=1.3)
    even = shares(expected[0], sampling)
    rows = [row_generator(seed, "q", 0) for seed in range(500)]
    tokens, _ = next_tokens(logits.expand(500, -1), sampling, rows, seen=seen.expand(500, -1))
    counted = torch.bincount(tokens, minlength=4) / 500
    torch.testing.assert_close(counted, even, rtol=0, atol=0.07)  # 3 standard deviations of 500 draws
    greedy, _ = next_tokens(logits, config(temperature=0.0, repetition_penalty=1.3), [random.Random(0)], seen=seen)
    assert greedy.tolist() == [int(expected.argmax())] == [0]


def test_a_row_does_not_depend_on_its_neighbours():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    sampling = config(temperature=1.3, top_p=0.95)

    def drawn(rows):
        generators = [row_generator(7, f"L1/{row}", 0) for row in rows]
        return [next_tokens(logits[rows], sampling, generators)[0].tolist() for _ in range(4)]

    whole = drawn([0, 1, 2, 3, 4, 5])
    assert [step[2] for step in whole] == [step[0] for step in drawn([2])]
    assert [[step[4], step[1]] for step in whole] == drawn([4, 1])


def test_generators_are_fixed_forever():
    # Python seeds from a string by SHA-512, on every machine alike; a change here changes published answers
    assert row_generator(0, "L1/115", 0).random() == random.Random("0:L1/115:0").random() == 0.1305151945178834
