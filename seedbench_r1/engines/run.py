"""run_plan: the one place that opens a run, asks what is pending, and concludes. Engines differ in how they ask."""

from __future__ import annotations

import threading
from collections.abc import Callable

from seedbench_r1.engines.base import Engine, EvalResult, Observe, Plan, Recorder
from seedbench_r1.errors import DataError
from seedbench_r1.models.checkpoint import weights_sha256
from seedbench_r1.runs.directory import RunDir
from seedbench_r1.runs.training_snapshot import take_snapshot, write_snapshot
from seedbench_r1.types import RunManifest


def run_plan(
    plan: Plan,
    engine: Engine,
    *,
    stop: threading.Event | None = None,
    observe: Observe = lambda record: None,
    say: Callable[[str], None] = lambda line: None,
) -> EvalResult:
    """Answer every pending question of a run. Calling it again continues the run.

    Args:
        plan: from plan().
        engine: entered already.
        stop: when set, nothing new is begun; what is in flight is finished and saved.
        observe: called with every record right after it was written.
        say: called with lines for the user.

    Raises:
        ConfigError, ResourceError: as RunDir.open, and from the engine. What was answered before is on disk.
    """
    config, stop = plan.config, stop or threading.Event()
    shard, fresh, writers = config.shard, config.fresh, engine.writers(plan)
    if writers:
        # Nobody else may write while the workers' files are set up: the directory is opened alone once, then as shard 0
        # of n, which lets the workers write and still keeps other whole runs out.
        with RunDir.open(plan.path, plan.manifest, plan.questions, fresh=fresh):
            shard, fresh = (0, writers), False
    with RunDir.open(plan.path, plan.manifest, plan.questions, shard=shard, fresh=fresh) as run:
        mine = config.shard  # shard 0 of n is no part of the questions
        pending = run.pending(plan.questions, shard=mine, retry_errors=config.retry_errors)
        run.event("start", pending=len(pending), command=plan.manifest.command, shard=mine, workers=writers)
        weights = _hash_weights(plan, run.manifest)
        if pending:
            engine.answer(plan, pending, Recorder(run, observe, say), stop=stop)
        return _conclude(run, plan, weights, shard=mine, stopped=stop.is_set())


def _conclude(
    run: RunDir, plan: Plan, weights: Callable[[], str | None], *, shard: tuple[int, int] | None, stopped: bool
) -> EvalResult:
    """Count the whole run, write its summary, and say what is left of this call's part of it."""
    # Other shards may have finished the run meanwhile.
    run.refresh()
    _keep_training(run, plan)
    summary = plan.suite.summarise(run.records(), run.questions.values(), run.manifest.n_total)
    run.finish(summary, None if summary.status == "incomplete" else weights())
    left = run.pending(plan.questions, shard=shard)
    records = run.records()
    failed = sum(q.question_id in records for q in left)
    run.event("stop", status=summary.status, unanswered=len(left), failed=failed, stopped=stopped)
    return EvalResult(summary, unanswered=len(left), failed=failed, stopped=stopped)


def _keep_training(run: RunDir, plan: Plan) -> None:
    """Copy what is known of the checkpoint's training into the run directory: the report never needs the checkpoint."""
    if plan.checkpoint is None:
        return
    try:
        snapshot = take_snapshot(plan.checkpoint.folder, run.questions.values(), run.manifest.dataset_hash)
    except DataError as error:  # the answers are what counts: the run goes on, and says what it lacks
        run.event("training_snapshot", problem=str(error))
        return
    if snapshot is not None:
        write_snapshot(run.path, snapshot)


def _hash_weights(plan: Plan, manifest: RunManifest) -> Callable[[], str | None]:
    """Start hashing every byte of the weights in the background; the returned function waits for the hash."""
    if plan.checkpoint is None or manifest.weights_sha256 is not None:
        return lambda: manifest.weights_sha256
    checkpoint, found = plan.checkpoint, []
    # Beside the first batches: a 7B model's weights are 16 GB to read.
    thread = threading.Thread(target=lambda: found.append(weights_sha256(checkpoint)), name="sha256", daemon=True)
    thread.start()

    def wait() -> str | None:
        thread.join()
        return found[0] if found else None

    return wait
