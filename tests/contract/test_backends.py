"""What every backend promises (seedbench_r1.backends.base.Backend), run for each of them.

`pytest tests/contract --backend NAME` runs one. A new backend adds a line to CASES: how to open it, and whether it
draws tokens itself (`samples`) or repeats a script.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from seedbench_r1.backends.base import sample_id
from seedbench_r1.backends.fake import FakeBackend
from seedbench_r1.types import Failure, Generation, SamplingConfig
from tests.family_table import checkpoint
from tests.tiny_models import FAMILIES, request

WAIT_S = 10  # only ever waited for by a failing test


@dataclasses.dataclass(frozen=True)
class Case:
    """One backend under test."""

    open: Callable[[int], Any]  # batch size -> backend
    family: str = "qwen2_5_vl"  # whose pixel sizes the requests have
    samples: bool = True  # it draws tokens: temperature, seeds and length limits mean something
    in_flight: Callable[[int], int] = lambda batch_size: 3 * batch_size + 1  # requests pulled before the first result


def open_tiny(family: str, batch_size: int) -> Any:
    from seedbench_r1.backends.transformers import TransformersBackend

    torch.set_num_threads(1)
    return TransformersBackend(str(checkpoint(family)), device="cpu", batch_size=batch_size)


# Of the generic path one for each of its ways: sized by the processor, sized here, as images, as nested images.
LOADED = (*FAMILIES, "internvl", "glm46v", "gemma3", "smolvlm")  # also by vLLM: tests/vllm/test_vllm_contract.py

CASES: dict[str, Case] = {
    f"transformers-{family}": Case(open=lambda size, family=family: open_tiny(family, size), family=family)
    for family in LOADED
} | {"fake": Case(open=lambda _: FakeBackend(lambda asked, k: f"words about {asked.question_id} {k}"), samples=False)}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    wanted = metafunc.config.getoption("backend", default=None)
    names = [name for name in CASES if wanted is None or name == wanted or name.startswith(f"{wanted}-")]
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", [CASES[name] for name in names], ids=names, scope="module")


@pytest.fixture(scope="module")
def backend(case):
    opened = case.open(4)
    yield opened
    opened.close()


@pytest.fixture
def sampler(case, backend):
    if not case.samples:
        pytest.skip("a scripted backend draws no tokens")
    return backend


def several(case, n=7):
    """Requests of different length; one without a clip."""
    return [
        request(f"L1/{i}", case.family, n_frames=None if i == 3 else 4, question="What next? " * (i + 1))
        for i in range(n)
    ]


def too_long(case):
    return request("L1/long", case.family, question="What should be done next? " * 3000)


GREEDY = SamplingConfig(temperature=0.0, top_p=1.0, max_new_tokens=8)
FREE = SamplingConfig(temperature=1.0, top_p=1.0, max_new_tokens=8)


def answers(backend, requests, sampling=GREEDY):
    """question_id -> the multiset of its results' tokens."""
    found: dict[str, Counter] = {}
    for question_id, result in backend.generate(iter(requests), sampling):
        assert isinstance(result, Generation), result
        found.setdefault(question_id, Counter())[result.token_ids] += 1
    return found


def test_every_request_leaves_exactly_once(case, backend):
    results = list(backend.generate(iter(several(case)), GREEDY))
    assert sorted(name for name, _ in results) == [f"L1/{i}" for i in range(7)]
    for _, generation in results:
        assert isinstance(generation, Generation)
        assert generation.finish_reason in ("stop", "length")
        assert generation.n_tokens == len(generation.token_ids) <= 8
        assert generation.n_prompt_tokens > 0
        assert generation.latency_s >= 0
        assert "<|" not in generation.text


def test_n_completions_leave_n_times(case, backend):
    results = list(backend.generate(iter(several(case, 3)), dataclasses.replace(FREE, n=3)))
    assert Counter(name for name, _ in results) == {"L1/0": 3, "L1/1": 3, "L1/2": 3}


def test_seeds_of_a_request_are_drawn_as_runs_with_each_of_them_would(case, backend):
    asked = several(case)
    with_seeds = [dataclasses.replace(r, seeds=(0, 5, 9)[: 1 + i % 3]) for i, r in enumerate(asked)]
    together = answers(backend, with_seeds, FREE)
    expected = {}
    for seed in (0, 5, 9):
        mine = [r for r, s in zip(asked, with_seeds, strict=True) if seed in s.seeds]
        alone = answers(backend, mine, dataclasses.replace(FREE, seed=seed))
        expected |= {sample_id(question_id, seed): found for question_id, found in alone.items()}
    assert together == expected
    assert sum(len(r.seeds) for r in with_seeds) == len(expected) == 13


def test_an_empty_stream_ends(backend):
    assert list(backend.generate(iter([]), GREEDY)) == []


def test_neighbours_and_order_change_nothing(case, backend):
    for sampling in (GREEDY, dataclasses.replace(FREE, n=2, seed=5)):
        together = answers(backend, several(case), sampling)
        alone = {}
        for asked in reversed(several(case)):
            alone |= answers(backend, [asked], sampling)
        assert together == alone


def test_batch_size_changes_nothing(case, backend):
    one = case.open(1)
    assert answers(one, several(case), FREE) == answers(backend, several(case), FREE)
    one.close()


def test_requests_are_pulled_lazily(case, backend):
    pulled = []

    def stream():
        for i in range(40):
            pulled.append(i)
            yield request(f"L1/{i}", case.family, cells=(1, 1))

    results = backend.generate(stream(), GREEDY)
    next(results)
    threading.Event().wait(0.1)
    assert len(pulled) <= case.in_flight(4) < 40
    assert len(list(results)) == 39


def test_a_result_does_not_wait_for_the_stream_to_end(case, backend):
    answered = threading.Event()

    def stream():
        yield request("L1/0", case.family)
        assert answered.wait(WAIT_S), "the first answer waited for the second request"
        yield request("L1/1", case.family)

    seen = []
    for question_id, _ in backend.generate(stream(), GREEDY):
        seen.append(question_id)
        answered.set()
    assert seen == ["L1/0", "L1/1"]


def test_one_bad_request_fails_alone(case, sampler):
    expected = answers(sampler, several(case))
    results = dict(sampler.generate(iter([*several(case, 2), too_long(case), *several(case)[2:]]), GREEDY))
    failure = results.pop("L1/long")
    assert isinstance(failure, Failure)
    assert failure.kind == "backend_error"
    assert re.search(r"the prompt has \d+ tokens, the model's context is \d+$", failure.message)
    assert {name: Counter([result.token_ids]) for name, result in results.items()} == expected


def test_a_bad_request_fails_n_times(case, sampler):
    results = list(sampler.generate(iter([too_long(case)]), dataclasses.replace(FREE, n=3)))
    assert [name for name, _ in results] == ["L1/long"] * 3


def test_a_bad_request_with_seeds_fails_once_for_each(case, sampler):
    bad = dataclasses.replace(too_long(case), seeds=(1, 4))
    results = list(sampler.generate(iter([bad]), FREE))
    assert sorted(name for name, _ in results) == ["L1/long@1", "L1/long@4"]
    assert all(isinstance(result, Failure) for _, result in results)


def test_an_error_of_the_stream_is_raised_after_its_answers(case, backend):
    def stream():
        yield from several(case, 2)
        raise OSError("no such disk")

    seen: list[str] = []
    results = (seen.append(name) for name, _ in backend.generate(stream(), GREEDY))
    with pytest.raises(OSError, match="no such disk"):
        list(results)
    assert sorted(seen) == ["L1/0", "L1/1"]


def test_closing_early_stops_pulling(case, backend):
    stopped = []

    def stream():
        for i in range(1000):
            stopped.append(i)
            yield request(f"L1/{i}", case.family, cells=(1, 1))

    results = backend.generate(stream(), GREEDY)
    next(results)
    results.close()
    pulled = len(stopped)
    threading.Event().wait(0.1)
    assert len(stopped) == pulled < 40
    assert answers(backend, several(case, 1))  # and the backend is still usable


def test_equal_seeds_repeat_and_others_do_not(case, sampler):
    first = answers(sampler, several(case), dataclasses.replace(FREE, seed=3))
    assert answers(sampler, several(case), dataclasses.replace(FREE, seed=3)) == first
    assert answers(sampler, several(case), dataclasses.replace(FREE, seed=4)) != first


def test_equal_prompts_of_two_questions_draw_apart(case, sampler):
    asked = request("L1/0", case.family)
    twins = [dataclasses.replace(asked, question_id=f"L1/{i}") for i in range(4)]
    assert len({tuple(found) for found in answers(sampler, twins, FREE).values()}) >= 3


def test_temperature_varies_the_completions_of_one_question(case, sampler):
    (found,) = answers(sampler, [request("L1/0", case.family)], dataclasses.replace(FREE, n=6)).values()
    assert found.total() == 6
    assert len(found) >= 5


def test_the_length_limit_is_kept(case, sampler):
    for limit in (1, 5):
        for _, generation in sampler.generate(
            iter(several(case)), dataclasses.replace(GREEDY, max_new_tokens=limit, logprobs=True)
        ):
            assert generation.n_tokens <= limit
            assert (generation.finish_reason == "length") == (generation.n_tokens == limit)
            assert len(generation.logprobs) == generation.n_tokens
            assert max(generation.logprobs, default=0) <= 0


def test_closing_twice(case):
    opened = case.open(1)
    opened.close()
    opened.close()
