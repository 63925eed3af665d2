"""One backend for several runs in a row: kept open between them, with the next checkpoint's weights where it can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from seedbench_r1.backends import open_backend
from seedbench_r1.backends.base import Backend, Result
from seedbench_r1.config import EvalConfig
from seedbench_r1.types import Request, SamplingConfig


@runtime_checkable
class Replaceable(Backend, Protocol):
    """A backend that can go on with another checkpoint's weights."""

    def replace_weights(self, model: str, *, dtype: str = "auto", revision: str | None = None) -> bool:
        """False, and nothing done, if the checkpoint needs a backend of its own."""
        ...


class KeptBackend:
    """Opens backends for runs that follow one another. `open` is what LocalEngine takes; close it at the end."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._made_for: EvalConfig | None = None
        self.starts = 0  # backends that were started, not reused

    def open(self, config: EvalConfig) -> Backend:
        """The backend of a run: the one before with other weights, or a new one. Raises as open_backend does."""
        if not self._goes_on_with(config):
            self.close()
            self._backend = open_backend(config)
            self.starts += 1
        self._made_for = config
        return _Lent(self)

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]:
        """As the backend's; what it raises ends it, since it may not be usable any more."""
        assert self._backend is not None
        try:
            yield from self._backend.generate(requests, sampling)
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Close the backend that is open, if one is."""
        backend, self._backend, self._made_for = self._backend, None, None
        if backend is not None:
            backend.close()

    def _goes_on_with(self, config: EvalConfig) -> bool:
        before, backend = self._made_for, self._backend
        if before is None or not isinstance(backend, Replaceable) or _loading(before) != _loading(config):
            return False
        return config.base_model is None and backend.replace_weights(config.model, dtype=config.dtype)


def _loading(config: EvalConfig) -> tuple[object, ...]:
    """What an engine was started with, besides the checkpoint."""
    limits = (config.tensor_parallel, config.max_in_flight, config.gpu_memory_utilization, config.max_model_len)
    frames = config.video.max_frames if config.video.preprocess == "images" else 0
    return config.backend, config.dtype, config.trust_remote_code, frames, *limits


class _Lent:
    """The backend as one run sees it: closing it leaves it open for the next."""

    def __init__(self, kept: KeptBackend) -> None:
        self._kept = kept

    def generate(self, requests: Iterable[Request], sampling: SamplingConfig) -> Iterator[Result]:
        return self._kept.generate(requests, sampling)

    def close(self) -> None:
        """The next run may go on with it."""
