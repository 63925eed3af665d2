"""`eval --suite transfer-lmms`: lmms-eval's own tasks of other video benchmarks, with its prompts and its scoring.

They ask for a letter at once, in 16 new tokens mostly: not the protocol of the papers, which let the model think. Hence
the label, and a folder of its own next to the run directories.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from seedbench_r1.config import EvalConfig
from seedbench_r1.engines import lmms_process
from seedbench_r1.engines.lmms import check_additions, other_device, own_model_args
from seedbench_r1.engines.lmms_process import LmmsJob, LmmsModel
from seedbench_r1.errors import ConfigError, DataError
from seedbench_r1.files import read_json_object, utc_now, write_json
from seedbench_r1.models.checkpoint import model_name
from seedbench_r1.prompts import DEFAULT_TEMPLATE
from seedbench_r1.runs.directory import run_directory, slug
from seedbench_r1.types import to_json

SUITE = "transfer-lmms"
SCHEMA = "sbr1.transfer-lmms/1"
# VSI-Bench, VideoMMMU, MMVU, MVBench, TempCompass, Video-MME: names in lmms-eval 0.7.3
TASKS = ("vsibench", "video_mmmu", "mmvu_val", "mvbench", "tempcompass", "videomme")
NOTE = "lmms-eval's own tasks, prompts and scoring; not the papers' protocol"


@dataclass(frozen=True, slots=True)
class TransferResult:
    """One benchmark."""

    task: str
    status: str  # "complete", "subset" (--limit) or "incomplete"
    n: int  # questions answered, all subtasks together
    expected: int | None  # questions the benchmark has; None: lmms-eval did not get so far
    metrics: dict[str, float] = field(default_factory=dict)  # lmms-eval's own names and scales
    reason: str | None = None  # why it is incomplete


@dataclass(frozen=True, slots=True)
class TransferPlan:
    """What to run where."""

    config: EvalConfig
    model: LmmsModel
    path: Path
    tasks: tuple[str, ...]
    include_path: Path | None
    header: dict[str, Any]  # of summary.json: all but dates and results

    def job(self, task: str) -> LmmsJob:
        """The next call of lmms-eval for one benchmark."""
        parent = self.path / task
        return LmmsJob(
            model=self.model,
            tasks=(task,),
            folder=parent / f"call-{sum(1 for _ in parent.glob('call-*')) + 1}",
            include_path=self.include_path,
            batch_size=self.config.batch_size if self.model.is_ours else 1,
            seed=self.config.sampling.seed,
            limit=self.config.limit,
            device=other_device(self.config, self.model),
        )


def plan_transfer(
    config: EvalConfig,
    model: LmmsModel,
    *,
    tasks: tuple[str, ...] = TASKS,
    include_path: Path | None = None,
    command: str = "",
) -> TransferPlan:
    """Choose the folder and the model's arguments. Nothing is run.

    Args:
        config: of the run.
        model: of lmms-eval; for our own model, args are additions to what `config` says.
        tasks: lmms-eval's names.
        include_path: a folder of tasks besides lmms-eval's own.
        command: for the record.

    Raises:
        ConfigError: lmms-eval is not installed, or arguments of our model would override a setting.
    """
    version = lmms_process.lmms_eval_version()
    name = slug(model_name(config.model))
    path = run_directory(config.runs_dir, SUITE, name, config.run_name)
    if model.is_ours:
        check_additions(model.args)
        plain = replace(config, template=DEFAULT_TEMPLATE)  # the tasks bring their own wording
        model = LmmsModel(model.name, ",".join(filter(None, [own_model_args(plain, path / "answers"), model.args])))
    header = {
        "schema": SCHEMA,
        "suite": SUITE,
        "note": NOTE,
        "model": config.model,
        "lmms_model": model.name,
        "lmms_model_args": model.args,
        "limit": config.limit,
        "versions": {"lmms-eval": version},
        "command": command,
    }
    return TransferPlan(config, model, path, tasks, include_path, header)


def run_transfer(
    planned: TransferPlan, *, stop: threading.Event | None = None, say: Callable[[str], None] = lambda text: None
) -> dict[str, TransferResult]:
    """Run each benchmark in a process of its own; one that fails costs no other. Complete ones are not run again.

    After each, <path>/summary.json holds all results so far.

    Raises:
        ConfigError: the folder holds results of another model, other arguments or another version of lmms-eval.
    """
    config, stop = planned.config, stop or threading.Event()
    results = {} if config.fresh else _earlier(planned)
    for task in planned.tasks:
        if stop.is_set():
            break
        if task in results and results[task].status != "incomplete":
            say(f"{task}: done before")
            continue
        job = planned.job(task)
        say(f"{task}: running; messages: {job.log}")
        lmms_process.run_job(job, stop=stop)
        if not stop.is_set():
            results[task] = read_transfer(job)
            _write(planned, results)
    return results


def read_transfer(job: LmmsJob) -> TransferResult:
    """Count a benchmark's samples and take its metrics from the results file."""
    (task,) = job.tasks
    value = lmms_process.read_results(job)
    if value is None:
        return TransferResult(task, "incomplete", 0, None, reason=f"{lmms_process.last_words(job.log)}; log: {job.log}")
    sizes = value["n-samples"]
    expected = sum(size["original"] for size in sizes.values())
    wanted = {name: size["effective"] for name, size in sizes.items()}
    counted = {name: _distinct(lmms_process.read_samples(job, name), job, name) for name in sizes}
    n = sum(counted.values())
    short = sorted(name for name in sizes if counted[name] != wanted[name])
    if short:
        reason = f"{short[0]}: {counted[short[0]]} of {wanted[short[0]]} answers; log: {job.log}"
        return TransferResult(task, "incomplete", n, expected, reason=reason)
    status = "complete" if n == expected else "subset"
    return TransferResult(task, status, n, expected, _metrics(value["results"], task, list(sizes)))


def _metrics(results: dict[str, Any], task: str, parts: list[str]) -> dict[str, float]:
    """The benchmark's own row; for a group without numbers of its own, those of its parts as "part/metric"."""
    own = _numbers(results.get(task, {}))
    if own:
        return own
    return {f"{part}/{metric}": n for part in parts for metric, n in _numbers(results.get(part, {})).items()}


def _distinct(samples: list[dict[str, Any]], job: LmmsJob, task: str) -> int:
    """How many questions the lines answer. Raises DataError if one is answered twice."""
    ids = [sample["doc_id"] for sample in samples]
    if len(set(ids)) != len(ids):
        raise DataError(f"{job.out}: task {task} answers a question twice.")
    return len(ids)


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    """The metrics of one row of lmms-eval's results, without standard errors and filter names."""
    return {
        key.partition(",")[0]: float(value)
        for key, value in row.items()
        if "," in key and "_stderr" not in key and isinstance(value, int | float) and not isinstance(value, bool)
    }


def _earlier(planned: TransferPlan) -> dict[str, TransferResult]:
    file = planned.path / "summary.json"
    if not file.exists():
        return {}
    value = read_json_object(file, DataError)
    fixed = ("schema", "model", "lmms_model", "lmms_model_args", "limit", "versions")
    differing = [name for name in fixed if value.get(name) != planned.header[name]]
    if differing:
        there, now = value.get(differing[0]), planned.header[differing[0]]
        raise ConfigError(
            f"{file} holds other results. Differing: {', '.join(differing)}; e.g. {there!r} there, {now!r} now. "
            f"Nothing was changed. Fix: --run-name NAME opens another folder, --fresh starts this one anew."
        )
    return {name: TransferResult(**result) for name, result in value["results"].items()}


def _write(planned: TransferPlan, results: dict[str, TransferResult]) -> None:
    planned.path.mkdir(parents=True, exist_ok=True)
    value = {"updated_utc": utc_now(), "results": to_json(results)}
    write_json(planned.path / "summary.json", planned.header | value)
