"""Batches from a lazy stream: never waiting while something is ready, bounded, and closing cleanly."""

from __future__ import annotations

import threading

import pytest

from seedbench_r1.backends.batching import ready_batches, similar

WAIT_S = 60  # only ever waited for by a failing test


def prefetch_threads():
    return [thread for thread in threading.enumerate() if thread.name == "prefetch"]


def wait_until(condition):
    """Poll without a deadline of its own beyond WAIT_S; True as soon as the condition holds."""
    tick = threading.Event()
    return any(condition() or tick.wait(0.005) for _ in range(int(WAIT_S / 0.005)))


def test_every_item_leaves_once_in_batches_of_at_most_the_size():
    batches = list(ready_batches(range(23), 4, float))
    assert sorted(item for batch in batches for item in batch) == list(range(23))
    assert max(len(batch) for batch in batches) <= 4


def test_no_waiting_while_one_is_ready():
    gate = threading.Event()

    def slow():
        yield 1
        gate.wait(WAIT_S)
        yield 2

    batches = ready_batches(slow(), 4, float)
    assert next(batches) == [1]  # the second cannot come before the gate opens
    assert not gate.is_set()
    gate.set()
    assert list(batches) == [[2]]


def test_at_most_two_batches_are_pulled_ahead():
    pulled = []

    def counting():
        for item in range(100):
            pulled.append(item)
            yield item

    batches = ready_batches(counting(), 3, float)
    first = next(batches)
    assert wait_until(lambda: len(pulled) == 6 + len(first))
    threading.Event().wait(0.05)
    assert len(pulled) == 6 + len(first)  # two batches wait; nothing more is pulled before the next is asked for
    batches.close()


def test_the_oldest_leaves_with_those_of_similar_size():
    assert set(similar([50, 10, 52, 11, 49, 12], 3, float)) == {0, 2, 4}
    assert set(similar([10, 50, 52, 11, 49, 12], 3, float)) == {0, 3, 5}
    assert set(similar([90, 10, 11, 12], 2, float)) == {0, 3}  # an outlier is not kept waiting
    assert set(similar([3, 1, 2], 5, float)) == {0, 1, 2}
    assert not similar([], 5, float)


def test_a_full_buffer_is_bucketed_by_size():
    pulled = []

    def source():
        for item in [0, 1, 100, 2, 101]:
            pulled.append(item)
            yield item

    batches = ready_batches(source(), 2, float)
    first = next(batches)  # the feeder may have been quick enough for two
    assert wait_until(lambda: len(pulled) == 5)
    if first == [0]:
        threading.Event().wait(0.05)  # the last pulled item is on its way into the buffer
        assert list(batches) == [[1, 2], [100, 101]]
    else:
        assert sorted(item for batch in batches for item in batch) == [2, 100, 101]


def test_an_error_of_the_source_comes_after_what_was_pulled():
    def failing():
        yield 1
        yield 2
        raise OSError("disk on fire")

    seen: list[int] = []
    batches = (seen.extend(batch) for batch in ready_batches(failing(), 1, float))
    with pytest.raises(OSError, match="disk on fire"):
        list(batches)
    assert seen == [1, 2]


def test_closing_ends_the_feeder():
    before = len(prefetch_threads())
    batches = ready_batches(iter(range(1000)), 2, float)
    next(batches)
    assert len(prefetch_threads()) == before + 1
    batches.close()
    assert len(prefetch_threads()) == before


def test_an_empty_stream():
    assert list(ready_batches([], 4, float)) == []
