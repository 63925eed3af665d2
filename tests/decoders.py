"""Decoding workers that several runs of a test file use one after the other: starting them costs 0.4 s of CPU each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from seedbench_r1.config import EvalConfig
from seedbench_r1.engines import local
from seedbench_r1.media.loader import FrameLoader


class SharedLoader:
    """The loader of the last run, kept for the next one if that wants the same. In place of local.open_loader."""

    def __init__(self) -> None:
        self._key: object = None
        self._open = contextlib.ExitStack()
        self._make = local.open_loader

    @contextlib.contextmanager
    def __call__(self, config: EvalConfig) -> Iterator[FrameLoader]:
        cache = (config.frame_cache, config.frame_cache_gb)
        key = (
            config.video,
            config.workers,
            config.decode_timeout_s,
            cache,
            local.media_loader,
        )  # a test may replace it
        if key != self._key:
            self.close()
            self._loader = self._open.enter_context(self._make(config))
            self._key = key
        self._loader.cache_counts.clear()
        yield self._loader

    def close(self) -> None:
        """End the workers."""
        self._open.close()
        self._key = None


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Runs in this process share their decoding workers."""
    loader = SharedLoader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "open_loader", loader)
        try:
            yield
        finally:
            loader.close()
