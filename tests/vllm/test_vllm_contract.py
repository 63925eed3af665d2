"""The backend contract of tests/contract, run for a real vLLM engine of each family that the other backend is tried on.

An engine takes half a minute, and the contract as much again: all but one are `slow`
(`.venv-vllm/bin/python -m pytest tests/vllm/test_vllm_contract.py -m slow`).
"""

from __future__ import annotations

import dataclasses

import pytest

from tests.contract.test_backends import (  # noqa: F401 - collected here, with the fixtures below
    LOADED,
    Case,
    sampler,
    test_a_bad_request_fails_n_times,
    test_a_bad_request_with_seeds_fails_once_for_each,
    test_a_result_does_not_wait_for_the_stream_to_end,
    test_an_empty_stream_ends,
    test_an_error_of_the_stream_is_raised_after_its_answers,
    test_batch_size_changes_nothing,
    test_closing_early_stops_pulling,
    test_equal_prompts_of_two_questions_draw_apart,
    test_equal_seeds_repeat_and_others_do_not,
    test_every_request_leaves_exactly_once,
    test_n_completions_leave_n_times,
    test_neighbours_and_order_change_nothing,
    test_one_bad_request_fails_alone,
    test_requests_are_pulled_lazily,
    test_seeds_of_a_request_are_drawn_as_runs_with_each_of_them_would,
    test_temperature_varies_the_completions_of_one_question,
    test_the_length_limit_is_kept,
)
from tests.vllm.conftest import open_family

SHARED = "qwen2_5_vl"  # whose engine other files start in any case


@dataclasses.dataclass
class SameEngine:
    """The shared engine with another number of generations in flight; opening it costs nothing."""

    backend: object
    max_in_flight: int

    def generate(self, requests, sampling):
        options = self.backend.options
        self.backend.options = dataclasses.replace(options, max_in_flight=self.max_in_flight)
        try:
            yield from self.backend.generate(requests, sampling)
        finally:
            self.backend.options = options

    def close(self):
        pass


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=() if name == SHARED else pytest.mark.slow) for name in LOADED]
)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def backend(family, request):
    if family == SHARED:
        yield request.getfixturevalue(SHARED)
        return
    opened = open_family(family)
    yield opened
    opened.close()


@pytest.fixture
def case(family, backend):
    from seedbench_r1.backends.vllm import AHEAD

    return Case(
        open=lambda size: SameEngine(backend, size),
        family=family,
        in_flight=lambda size: size + AHEAD + 1,
    )
