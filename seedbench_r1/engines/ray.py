"""The engine on Ray: one run, answered by workers on one or many machines that take questions as they have room.

A worker is a plain Ray actor: a backend, its decoders and a record file of its own. Ray Data's map_batches is not used:
it hands out whole batches, so that a GPU waits for the slowest answer of each; it keeps a dead worker's batches for its
successor; and it cannot be told to finish what is in flight and stop.
"""

from __future__ import annotations

import importlib.util
import logging
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedbench_r1.config import EvalConfig
from seedbench_r1.engines.base import DRAINING, Plan, Recorder
from seedbench_r1.engines.ray_worker import Job, Worker, record_file
from seedbench_r1.errors import ConfigError, ResourceError
from seedbench_r1.media.loader import PREFETCH_PER_WORKER
from seedbench_r1.runs.records import read_lines, record_from_json
from seedbench_r1.scoring import to_record
from seedbench_r1.suites.base import Suite
from seedbench_r1.types import Failure, Question, RunRecord

if TYPE_CHECKING:
    from ray import ObjectRef

log = logging.getLogger(__name__)

MAX_LOST = 3  # workers that died with a question in flight, after which it counts as failed
MAX_DEATHS = 3  # of one worker in a row, without an answer in between, after which it gets no successor
POLL_S = 0.2  # how soon a stop is noticed while nothing happens
CONNECT_S = 5.0  # for the first connection to a cluster; Ray itself would try for two minutes and end the process
CLOSE_S = 60.0  # how long the workers may take to let their models go
OBJECT_STORE_BYTES = 80 * 2**20  # of a cluster of our own: Ray's least is 75 MiB, and only questions and answers travel


@dataclass(frozen=True, slots=True)
class PoolSize:
    """How many workers a run gets, and GPUs for each."""

    n: int
    gpus: int


class RayEngine:
    """Connects to a cluster on entering, or starts one on this machine for as long as the block lasts.

    Every worker writes its results into records.<worker>-of-<n>.jsonl of the run directory, which all machines must
    share. The driver sees one record at a time and keeps none but the run's own count.
    """

    stop_message = DRAINING

    def __init__(self, config: EvalConfig) -> None:
        self._config = config
        self._resources = ExitStack()
        self._size = PoolSize(0, 0)

    def check(self, config: EvalConfig, suite: Suite) -> None:
        """Raise ConfigError if Ray is not installed, or the settings make no sense with it. Every suite runs on it."""
        if importlib.util.find_spec("ray") is None:
            raise ConfigError("--engine ray needs Ray. Fix, in the checkout: pip install '.[ray]'")
        if config.backend == "openai":
            raise ConfigError(
                "An API model needs no Ray. Fix: leave out --engine ray; --concurrency says how many at once."
            )
        if ":" in config.device:
            raise ConfigError(f"Ray gives every worker its GPU. Fix: leave out --device {config.device}.")

    def __enter__(self) -> RayEngine:
        config = self._config
        with ExitStack() as stack:
            stack.enter_context(redirect_stdout(sys.stderr))  # where Ray prints that a worker died
            self._size = stack.enter_context(ray_cluster(config.ray_address, config.ray_workers, config))
            self._resources = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._resources.close()

    def writers(self, plan: Plan) -> int:
        """One for each worker."""
        return self._size.n

    def answer(self, plan: Plan, pending: Sequence[Question], recorder: Recorder, *, stop: threading.Event) -> None:
        """See engines.base.Engine.

        Raises:
            ConfigError: a machine does not see the run directory, the data or the model.
            ResourceError: from a worker's backend; the workers do not stay alive.
        """
        job = Job(_with_absolute_paths(plan.config), plan.path.absolute(), recorder.run.manifest, self._size.n)
        with ActorPool(job, self._size, recorder) as pool:
            pool.answer(deque(question.with_absolute_paths() for question in pending), stop)


@contextmanager
def ray_cluster(address: str | None, n_workers: int | None, config: EvalConfig) -> Iterator[PoolSize]:
    """Connect to a cluster, or start one on this machine for as long as the block lasts.

    Args:
        address: HOST:PORT of a running cluster; "auto": the one that this machine belongs to; None: one of our own.
        n_workers: None for as many as the cluster has GPUs for, or 1 without GPUs.
        config: of the run; its backend and device say how many GPUs a worker needs.

    Raises:
        ConfigError: no cluster answers there, or it has not the CPUs or GPUs that the workers need.
    """
    import ray

    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": log.isEnabledFor(logging.INFO)}
    try:
        if address is None:
            cpus = {} if n_workers is None else {"num_cpus": n_workers}
            own: dict[str, Any] = {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES, **cpus}
            ray.init(address="local", **own, **quiet)
        else:
            _check_address(address)
            ray.init(address=address, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"No Ray cluster at {address or 'this machine'}: {error}. Fix: ray start --head on one machine and "
            f"--ray-address HOST:6379, or leave --ray-address out."
        ) from error
    try:
        pool = size_pool(config, n_workers, ray.cluster_resources())  # type: ignore[no-untyped-call]
        free = ray.available_resources()  # type: ignore[no-untyped-call]
        if pool.n > free.get("CPU", 0) or pool.n * pool.gpus > free.get("GPU", 0):
            log.warning("Ray's cluster is busy: workers begin when others have given CPUs or GPUs back")
        yield pool
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raises OSError unless something listens at HOST:PORT. Other forms are left to Ray."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()


def size_pool(config: EvalConfig, n_workers: int | None, resources: dict[str, float]) -> PoolSize:
    """Workers that fit into the cluster: one CPU each and, for a model on GPUs, its GPUs.

    Raises ConfigError if the workers that were asked for do not fit: Ray would wait for ever.
    """
    cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
    on_gpu = config.backend != "fake" and config.device != "cpu" and (gpus > 0 or config.device == "cuda")
    each = 0  # GPUs that share one copy of the model
    if on_gpu:
        each = config.tensor_parallel if config.backend == "vllm" else 1
    room = min(cpus, gpus // each) if each else cpus
    n = n_workers if n_workers is not None else (max(1, room) if each else 1)
    if n < 1:
        raise ConfigError(f"--ray-workers is {n}, which is out of range.")
    if n > room:
        raise ConfigError(
            f"{n} workers need {n} CPUs and {n * each} GPUs; Ray's cluster has {cpus} and {gpus}. "
            f"Fix: --ray-workers {room}" + ("" if room else ", after more machines have joined it.")
        )
    return PoolSize(n, each)


def window(config: EvalConfig) -> int:
    """Questions that one worker holds at once: enough that neither its decoders nor its model wait for the driver.

    Those ahead of it in its decoders, and those in its backend: for transformers a batch at work, two ready and one
    more (backends/batching.py); for vllm those in the engine and 8 prepared ones (backends/vllm.py).
    """
    in_backend = {"fake": 1, "vllm": config.max_in_flight + 8}.get(config.backend, 3 * config.batch_size + 1)
    return PREFETCH_PER_WORKER * config.workers + in_backend


def _with_absolute_paths(config: EvalConfig) -> EvalConfig:
    """A worker may start in another folder. plan() has made local folders of hub ids."""
    return replace(
        config,
        model=str(Path(config.model).absolute()),
        base_model=None if config.base_model is None else str(Path(config.base_model).absolute()),
        data_root=config.data_root.absolute(),
        frame_cache=None if config.frame_cache is None else config.frame_cache.absolute(),
    )


@dataclass(slots=True)
class _Actor:
    """A worker as the driver sees it."""

    number: int  # 1-based
    handle: Any  # Ray's handle; None: it died too often and got no successor
    in_flight: dict[ObjectRef[RunRecord | None], Question] = field(default_factory=dict)  # by the answer to come
    deaths: int = 0  # in a row, without an answer in between


class ActorPool:
    """The workers of a run, and which questions they work on. A context manager."""

    def __init__(self, job: Job, size: PoolSize, recorder: Recorder) -> None:
        self._job = job
        self._size = size
        self._recorder = recorder
        self._window = window(job.config)
        self._pending: deque[Question] = deque()
        self._lost: Counter[str] = Counter()  # by question_id: workers that died with it in flight
        self._draining = False
        self._error: BaseException | None = None  # the first that concerns all questions
        self._actors: list[_Actor] = []

    def __enter__(self) -> ActorPool:
        self._actors = [_Actor(number, self._start(number)) for number in range(1, self._size.n + 1)]
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for actor in self._alive():
            ray.kill(actor.handle)

    def answer(self, pending: deque[Question], stop: threading.Event) -> None:
        """Hand out until nothing is left, or until stop or an error; then wait for what is in flight."""
        self._pending = pending
        while self._pending or any(actor.in_flight for actor in self._actors):
            if stop.is_set():
                self._drain()
            self._hand_out()
            self._collect()
        self._close()
        if self._error is not None:
            raise self._error

    def _start(self, number: int, *, successor: bool = False) -> Any:  # noqa: ANN401  # ray's handle of an actor
        import ray

        remote = ray.remote(Worker).options(
            num_cpus=1, num_gpus=self._size.gpus, max_restarts=0, max_concurrency=self._window + 2
        )  # + 2: stop and close are heard while all answers are waited for
        return remote.remote(self._job, number, successor=successor)

    def _alive(self) -> list[_Actor]:
        return [actor for actor in self._actors if actor.handle is not None]

    def _hand_out(self) -> None:
        """One question at a time to the worker with the fewest, until all are full."""
        while self._pending:
            actor = min(self._alive(), key=lambda actor: len(actor.in_flight))
            if len(actor.in_flight) >= self._window:
                return
            question = self._pending.popleft()
            actor.in_flight[actor.handle.answer.remote(question)] = question

    def _collect(self) -> None:
        """Wait a moment for an answer; take all that are there."""
        import ray

        holders = {reference: actor for actor in self._actors for reference in actor.in_flight}
        if not holders:
            return
        ready, _ = ray.wait(list(holders), num_returns=1, timeout=POLL_S)
        if ready:
            ready, _ = ray.wait(list(holders), num_returns=len(holders), timeout=0)
        for reference in ready:
            self._take(holders[reference], reference)

    def _take(self, actor: _Actor, reference: ObjectRef[RunRecord | None]) -> None:
        import ray

        if reference not in actor.in_flight:
            return  # its worker died, and the question went to another
        try:
            record: RunRecord | None = ray.get(reference)
        except ray.exceptions.RayActorError:
            self._replace(actor)
            return
        except ray.exceptions.RayTaskError as error:
            del actor.in_flight[reference]
            self._error = self._error or getattr(error, "cause", None) or error
            self._drain()
            return
        del actor.in_flight[reference]
        if record is not None:
            actor.deaths = 0
            self._recorder.written_by_worker(record)
            self._recorder.failures.add(record)

    def _replace(self, actor: _Actor) -> None:
        """A worker died: what it had written counts, the rest of its questions goes to others, a successor starts."""
        import ray

        lost, actor.in_flight = list(actor.in_flight.values()), {}
        ray.kill(actor.handle)  # it may be alive behind a broken connection
        written = {r.question_id: r for r in read_lines(record_file(self._job, actor.number), record_from_json)}
        for question in lost:
            record = written.get(question.question_id)
            if record is not None and record.answered:
                self._recorder.written_by_worker(record)
            elif not self._draining:
                self._ask_again(question)
        actor.deaths += 1
        log.warning("Worker %d died with %d questions in flight; they are asked again", actor.number, len(lost))
        again = not self._draining and actor.deaths < MAX_DEATHS
        actor.handle = self._start(actor.number, successor=True) if again else None
        if not self._draining and not self._alive():
            self._error = ResourceError(
                f"All {self._size.n} workers died {MAX_DEATHS} times without an answer (out of memory?). What was "
                f"answered is saved. Fix: fewer --ray-workers or --workers; Ray's logs say more."
            )
            self._drain()

    def _ask_again(self, question: Question) -> None:
        self._lost[question.question_id] += 1
        if self._lost[question.question_id] < MAX_LOST:
            self._pending.append(question)
            return
        failure = Failure("backend_error", f"{MAX_LOST} workers died while they had this question in flight")
        self._recorder.write(to_record(question, failure))

    def _drain(self) -> None:
        """Nothing new is handed out; workers finish what their backends hold and give the rest back."""
        if self._draining:
            return
        self._draining = True
        self._pending.clear()
        for actor in self._alive():
            actor.handle.stop.remote()

    def _close(self) -> None:
        """Let the workers end by themselves; one that does not is killed on leaving."""
        import ray

        closing = [actor.handle.close.remote() for actor in self._alive()]
        done, _ = ray.wait(closing, num_returns=len(closing), timeout=CLOSE_S) if closing else ([], [])
        log.info("%d of %d workers closed", len(done), self._size.n)
