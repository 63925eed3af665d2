"""Decoding workers that several runs of a test file use one after the other: starting them costs 0.4 s of CPU each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest

from seedbench_r1.config import EvalConfig
from seedbench_r1.engines import local
from seedbench_r1.media.frames import load_media
from seedbench_r1.media.loader import FrameLoader, Load
from seedbench_r1.types import VideoConfig


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


class _Lent(contextlib.nullcontext["_Lent"]):
    """A loader that stays open. What a training decoded ahead, and did not use, is given up as elsewhere."""

    def __init__(self, loader: FrameLoader) -> None:
        super().__init__(self)
        self.stream, self.cache_counts = loader.stream, loader.cache_counts

    def close(self) -> None:
        """The next training may want it."""


class _TrainingLoaders:
    """In place of trainers.data.FrameLoader: the last training's, if this one wants the same."""

    def __init__(self, open_loaders: contextlib.ExitStack) -> None:
        self._key: object = None
        self._open = open_loaders

    def __call__(self, config: VideoConfig, *, workers: int, timeout_s: float, load: Load = load_media) -> _Lent:
        what: Any = load
        if isinstance(load, functools.partial):
            what = (load.func, load.args, tuple(sorted(load.keywords.items())))
        key = (config, workers, timeout_s, what)
        if key != self._key:
            self._open.close()
            self._loader = self._open.enter_context(
                FrameLoader(config, workers=workers, timeout_s=timeout_s, load=load)
            )
            self._key = key
        return _Lent(self._loader)


@contextlib.contextmanager
def sharing_in_trainings() -> Iterator[None]:
    """Trainings in this process share their decoding workers."""
    import trainers.data

    with contextlib.ExitStack() as open_loaders, pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainers.data, "FrameLoader", _TrainingLoaders(open_loaders))
        yield
