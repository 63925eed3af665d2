"""run_plan: the one place that opens a run, asks what is pending, and concludes. Engines differ in how they ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from seedbench_r1.engines.base import Engine, EvalResult, FailuresInARow, Observe, Plan, Recorder
from seedbench_r1.errors import DataError, SeedBenchError
from seedbench_r1.models.fingerprint import WeightHashes
from seedbench_r1.runs.directory import RunDir, read_manifest
from seedbench_r1.runs.training_snapshot import take_snapshot, write_snapshot
from seedbench_r1.suites.own import trained_on
from seedbench_r1.types import Question, RunManifest, RunRecord

HASHES = ".weights-sha256.json"  # of the runs' folder: hashes of weight files by path, size and time of change


def run_plan(
    plan: Plan,
    engine: Engine,
    *,
    stop: threading.Event | None = None,
    observe: Observe = lambda record: None,
    say: Callable[[str], None] = lambda line: None,
    opened: Callable[[Mapping[str, RunRecord], Sequence[Question]], None] = lambda records, pending: None,
) -> EvalResult:
    """Answer every pending question of a run. Calling it again continues the run.

    Args:
        plan: from plan().
        engine: entered already.
        stop: when set, nothing new is begun; what is in flight is finished and saved.
        observe: called with every record right after it was written.
        say: called with lines for the user.
        opened: called once the directory is open, with its records so far and what is asked in this call.

    Raises:
        ConfigError, ResourceError: as RunDir.open, and from the engine. What was answered before is on disk.
    """
    config, stop = plan.config, stop or threading.Event()
    weights = _hash_weights(plan)
    manifest = plan.manifest if config.fresh else _with_weights(plan, weights)
    shard, fresh, writers = config.shard, config.fresh, engine.writers(plan)
    if writers:
        # Nobody else may write while the workers' files are set up: the directory is opened alone once, then as shard 0
        # of n, which lets the workers write and still keeps other whole runs out.
        with RunDir.open(plan.path, manifest, plan.questions, fresh=fresh):
            shard, fresh = (0, writers), False
    with RunDir.open(plan.path, manifest, plan.questions, shard=shard, fresh=fresh) as run:
        mine = config.shard  # shard 0 of n is no part of the questions
        pending = run.pending(plan.questions, shard=mine, retry_errors=config.retry_errors)
        opened(run.records(), pending)
        run.event("start", pending=len(pending), command=plan.manifest.command, shard=mine, workers=writers)
        # Noted as soon as they are known: a kill must not lose what the next call has to compare with.
        noting = threading.Thread(target=_note_weights, args=(run, weights), name="weights", daemon=True)
        noting.start()
        if pending:
            engine.answer(plan, pending, Recorder(run, observe, say, FailuresInARow(str(plan.path))), stop=stop)
        # A stop does not wait for gigabytes to be read.
        if not stop.is_set():
            noting.join()
        return _conclude(run, plan, weights, shard=mine, stopped=stop.is_set())


def _conclude(
    run: RunDir, plan: Plan, weights: WeightHashes | None, *, shard: tuple[int, int] | None, stopped: bool
) -> EvalResult:
    """Count the whole run, write its summary, and say what is left of this call's part of it."""
    # Other shards may have finished the run meanwhile.
    run.refresh()
    _keep_training(run, plan)
    summary = plan.suite.summarise(run.records(), run.questions.values(), run.manifest.n_total)
    # Raises if a byte could not be read: such a run is not called complete.
    run.finish(summary, weights.wait() if weights is not None and summary.status != "incomplete" else {})
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
        snapshot = take_snapshot(plan.checkpoint.folder, run.questions.values(), run.manifest.dataset_hash, trained_on)
    except DataError as error:  # the answers are what counts: the run goes on, and says what it lacks
        run.event("training_snapshot", problem=str(error))
        return
    if snapshot is not None:
        write_snapshot(run.path, snapshot)


def _note_weights(run: RunDir, weights: WeightHashes | None) -> None:
    """Runs in a thread. What goes wrong is raised again when the run is concluded."""
    if weights is None:
        return
    try:
        run.note_weights(weights.wait())
    except SeedBenchError as error:
        run.event("weights", problem=str(error))


def _hash_weights(plan: Plan) -> WeightHashes | None:
    """Start hashing every byte of the weights in the background; None where there are none on this machine."""
    if plan.checkpoint is None:
        return None
    return WeightHashes(plan.checkpoint.weights, plan.config.runs_dir / HASHES).start()


def _with_weights(plan: Plan, weights: WeightHashes | None) -> RunManifest:
    """The plan's manifest, with the weights' hashes if the run to continue has them: then they must be compared first.

    They are in the cache unless a file has changed since, so that this costs no time otherwise.
    """
    existing = read_manifest(plan.path)
    if weights is None or existing is None or not existing.weight_files:
        return plan.manifest
    return replace(plan.manifest, weight_files=weights.wait())
