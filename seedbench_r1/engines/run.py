"""run_plan and run_samples: the one place that opens runs, asks what is pending, and concludes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from seedbench_r1.backends.base import sample_id
from seedbench_r1.engines.base import Engine, EvalResult, FailuresInARow, Observe, Plan, Recorder
from seedbench_r1.errors import ConfigError, DataError, SeedBenchError
from seedbench_r1.models.fingerprint import WeightHashes
from seedbench_r1.runs.directory import RunDir, read_manifest
from seedbench_r1.runs.samples import open_samples, sample_folder
from seedbench_r1.runs.training_snapshot import take_snapshot, write_snapshot
from seedbench_r1.suites.own import trained_on
from seedbench_r1.types import Question, RunManifest, RunRecord

Opened = Callable[[Mapping[str, RunRecord], Sequence[Question]], None]
HASHES = ".weights-sha256.json"  # of the runs' folder: hashes of weight files by path, size and time of change


def run_plan(
    plan: Plan,
    engine: Engine,
    *,
    stop: threading.Event | None = None,
    observe: Observe = lambda record: None,
    say: Callable[[str], None] = lambda line: None,
    opened: Opened = lambda records, pending: None,
) -> EvalResult:
    """Answer every pending question of a run. Calling it again continues the run.

    Args:
        plan: from plan(), of one answer to each question.
        engine: entered already.
        stop: when set, nothing new is begun; what is in flight is finished and saved.
        observe: called with every record right after it was written.
        say: called with lines for the user.
        opened: called once the directory is open, with its records so far and what is asked in this call.

    Raises:
        ConfigError, ResourceError: as RunDir.open, and from the engine. What was answered before is on disk.
        ConfigError: the plan is of several samples.
    """
    if plan.config.sampled_seeds:
        raise ConfigError("run_plan gives one answer to each question. Fix: run_samples, or no --samples and --seeds.")
    return _run({None: plan}, plan, engine, stop or threading.Event(), (observe, say, opened))[None]


def run_samples(
    plan: Plan,
    engine: Engine,
    *,
    stop: threading.Event | None = None,
    observe: Observe = lambda record: None,
    say: Callable[[str], None] = lambda line: None,
    opened: Opened = lambda records, pending: None,
) -> dict[int, EvalResult]:
    """Answer every pending question of every sample: seed -> how its run ended. Calling it again continues all of them.

    A question is decoded and its prompt computed once for the seeds that are left; each answer is what a run with that
    seed alone would get. Arguments and errors as run_plan's; to `observe` and `opened` a sample of a question goes by
    its sample_id.
    """
    config = plan.config
    if config.fresh and config.shard is not None:
        raise ConfigError("--fresh would take the other shards' records away. Fix: leave out --shard once.")
    by_seed = {seed: sample_plan(plan, seed) for seed in config.sampled_seeds}
    manifests = {seed: one.manifest for seed, one in by_seed.items()}
    open_samples(plan.path, manifests, plan.questions, fresh=config.fresh)
    plans: dict[int | None, Plan] = {seed: one for seed, one in by_seed.items()}  # noqa: C416  # of another type
    found = _run(plans, plan, engine, stop or threading.Event(), (observe, say, opened))
    return {seed: result for seed, result in found.items() if seed is not None}


def sample_plan(plan: Plan, seed: int) -> Plan:
    """The run of one sample: what a plan with this seed alone would be, in the folder of all of them."""
    sampling = replace(plan.config.sampling, seed=seed)
    # What there was has moved away with the whole folder.
    config = replace(plan.config, sampling=sampling, seeds=(), samples=1, fresh=False)
    manifest = replace(plan.manifest, sampling=sampling, seed=seed)
    return replace(plan, config=config, manifest=manifest, path=sample_folder(plan.path, seed))


def _run(
    plans: Mapping[int | None, Plan],
    plan: Plan,
    engine: Engine,
    stop: threading.Event,
    told: tuple[Observe, Callable[[str], None], Opened],
) -> dict[int | None, EvalResult]:
    config, (observe, say, opened) = plan.config, told
    weights = _hash_weights(plan)
    shard, writers = config.shard, engine.writers(plan)
    fresh = next(iter(plans.values())).config.fresh
    if writers:
        # Nobody else may write while the workers' files are set up: each directory is opened alone once, then as shard
        # 0 of n, which lets the workers write and still keeps other whole runs out.
        for one in plans.values():
            with RunDir.open(one.path, _manifest(one, weights), one.questions, fresh=fresh):
                pass
        shard, fresh = (0, writers), False
    with ExitStack() as stack:
        runs = {
            seed: stack.enter_context(
                RunDir.open(one.path, _manifest(one, weights), one.questions, shard=shard, fresh=fresh)
            )
            for seed, one in plans.items()
        }
        # Shard 0 of n is no part of the questions.
        left = {
            seed: run.pending(plan.questions, shard=config.shard, retry_errors=config.retry_errors)
            for seed, run in runs.items()
        }
        _say_opened(opened, runs, left)
        for seed, run in runs.items():
            command = plan.manifest.command
            run.event("start", pending=len(left[seed]), command=command, shard=config.shard, workers=writers)
        # Noted as soon as they are known: a kill must not lose what the next call has to compare with.
        noting = threading.Thread(target=_note_weights, args=([*runs.values()], weights), name="weights", daemon=True)
        noting.start()
        if any(left.values()):
            questions, seeds = _asked(plan, left)
            recorder = Recorder(runs, seeds, observe, say, FailuresInARow(str(plan.path)))
            engine.answer(plan, questions, recorder, stop=stop)
        # A stop does not wait for gigabytes to be read.
        if not stop.is_set():
            noting.join()
        return {
            seed: _conclude(run, plans[seed], weights, shard=config.shard, stopped=stop.is_set())
            for seed, run in runs.items()
        }


def _asked(
    plan: Plan, left: Mapping[int | None, Sequence[Question]]
) -> tuple[Sequence[Question], dict[str, tuple[int, ...]]]:
    """What is asked, each question once, and with which seeds (none for one answer to each question)."""
    if None in left:
        return left[None], {}
    seeds: dict[str, tuple[int, ...]] = {}
    for seed, questions in left.items():
        for question in questions:
            seeds[question.question_id] = (*seeds.get(question.question_id, ()), seed or 0)
    return [question for question in plan.questions if question.question_id in seeds], seeds


def _say_opened(
    opened: Opened, runs: Mapping[int | None, RunDir], left: Mapping[int | None, Sequence[Question]]
) -> None:
    if None in runs:
        opened(runs[None].records(), left[None])
        return
    records, pending = {}, []
    for seed, run in runs.items():
        for question_id, record in run.records().items():
            name = sample_id(question_id, seed or 0)
            records[name] = replace(record, question_id=name)
        pending += [replace(q, question_id=sample_id(q.question_id, seed or 0)) for q in left[seed]]
    opened(records, pending)


def _manifest(plan: Plan, weights: WeightHashes | None) -> RunManifest:
    return plan.manifest if plan.config.fresh else _with_weights(plan, weights)


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


def _note_weights(runs: list[RunDir], weights: WeightHashes | None) -> None:
    """Runs in a thread. What goes wrong is raised again when the run is concluded."""
    for run in runs if weights is not None else ():
        try:
            run.note_weights(weights.wait() if weights is not None else {})
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
