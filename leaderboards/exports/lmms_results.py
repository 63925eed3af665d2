"""Export as lmms-eval's result files: <date>_results.json and <date>_samples_<task>.jsonl, under its own task names.

The metrics are those of our tasks there (docs/lmms-eval.md). `import lmms-eval` reads the samples back. Our consistency
stands in each sample and in the results as `reasoning_consistency`; lmms-eval's `consistency_rate` is something else.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from leaderboards.exports.common import Exported, caveat, json_file, json_line
from leaderboards.outcomes import Bools
from leaderboards.provenance import shareable
from leaderboards.shares import share
from leaderboards.stats import Proportion
from seedbench_r1.prompts import build_prompt, template_sha
from seedbench_r1.types import DOMAINS, LEVELS, ParsedResponse, Question, RunRecord, Score, Verdict, to_json

LEVEL_METRICS = {level: f"level_{level.lower()}" for level in LEVELS}
DOMAIN_METRICS = {domain: f"domain_{domain.lower().replace(' ', '_')}" for domain in DOMAINS}
FILTER = "none"  # lmms-eval writes "metric,filter"
TASK_VERSION = 1

_UNSAFE = re.compile(r"[\"<>:/|\\?*\[\]]+")


def lmms_files(exported: Exported, out: Path) -> dict[Path, str]:
    """The run's files by path. The date is that of the run, in UTC.

    A question without an answer has no line in the samples; `n-samples` says how many those are, and the scores count
    it as wrong.
    """
    manifest = exported.manifest
    folder = out / _sanitized(manifest.model.name)
    # The run's own time: exporting twice gives the same names.
    date = re.sub(r"\D", "", manifest.completed_utc or manifest.updated_utc)
    stem = f"{date[:8]}_{date[8:]}"
    files = {}
    hashes = {}
    for level in exported.bank.levels:
        lines = _samples(exported, level)
        task = _task(level)
        # lmms-eval's task hash: over the documents' hashes in their order.
        joined = "".join(f"sample_{i}{line['doc_hash']}" for i, line in enumerate(lines))
        hashes[task] = hashlib.sha256(joined.encode()).hexdigest()
        files[folder / f"{stem}_samples_{task}.jsonl"] = "".join(json_line(line) for line in lines)
    return {folder / f"{stem}_results.json": json_file(_results(exported, hashes))} | files


def _sanitized(name: str) -> str:
    """As lmms-eval names a model's folder; a name of dots alone would lead out of it."""
    return _UNSAFE.sub("__", name).strip(". ") or "model"


def _task(level: str) -> str:
    return f"seedbench_r1_{level.lower()}"


def _results(exported: Exported, hashes: dict[str, str]) -> dict[str, object]:
    manifest = exported.manifest
    tasks = {_task(level): _metrics(exported, level) for level in exported.bank.levels}
    sizes = {
        _task(level): {
            "original": manifest.n_total.get(level, {}).get("all", 0),
            # lmms-eval's words for asked and answered; a difference shows that answers are missing.
            "effective": int((exported.bank.group(level) & exported.measured.outcomes.responded).sum()),
        }
        for level in exported.bank.levels
    }
    sampling = exported.settings.sampling
    return {
        "results": {task: {"alias": task} | metrics for task, metrics in tasks.items()},
        "configs": {task: {"task": task, "metadata": {"version": TASK_VERSION}} for task in tasks},
        "versions": dict.fromkeys(tasks, TASK_VERSION),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {
            # A standard error is the only number here of which less is better.
            task: {key: key != "clustered_se" for name in metrics if "_stderr" not in (key := name.partition(",")[0])}
            for task, metrics in tasks.items()
        },
        "n-samples": sizes,
        "config": {
            "model": "seedbench_r1",
            "model_args": f"pretrained={shareable(manifest.model.path)}",
            # Unknown to a run directory; lmms-eval expects the fields.
            "batch_size": None,
            "device": None,
            "limit": None,
            "gen_kwargs": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "top_k": sampling.top_k,
                "max_new_tokens": sampling.max_new_tokens,
            },
            "random_seed": manifest.seed,
        },
        "git_hash": exported.row.commit,
        "date": manifest.completed_utc or manifest.updated_utc,
        "task_hashes": hashes,
        "model_source": "seedbench_r1",
        "model_name": manifest.model.name,
        "model_name_sanitized": _sanitized(manifest.model.name),
        "seedbench_r1": {
            "written_by": "seedbench-r1 export lmms-eval",
            "protocol": manifest.protocol,
            "protocol_id": manifest.protocol_id,
            "prompt_sha256": template_sha(exported.settings.template),
            "status": exported.row.status,
            "caveat": caveat(exported),
            "judge": exported.row.judge_id,
        },
    }


def _metrics(exported: Exported, level: str) -> dict[str, float]:
    """ "metric,none" -> value. Shares of the questions asked: an unanswered one has nothing right about it."""
    bank, table = exported.bank, exported.measured.outcomes
    # All questions asked: lmms-eval has no notion of an incomplete run.
    asked = bank.group(level) & table.selected
    records = exported.measured.run.records
    # Not in the arrays of the board, which needs no format.
    format_ok: Bools = table.selected & False
    for record in records.values():
        if record.parsed is not None and record.parsed.format_ok:
            format_ok[bank.index[record.question_id]] = True
    accuracy = share(table.correct, asked, bank)
    found: dict[str, Proportion] = {
        "accuracy": accuracy,
        "strict_match": share(table.strict, asked, bank),
        "letter_given": share(table.picked >= 0, asked, bank),
        "format_kept": share(format_ok, asked, bank),
    }
    if level in LEVEL_METRICS:
        found[LEVEL_METRICS[level]] = accuracy
    for domain, name in DOMAIN_METRICS.items():
        if level == "L3" and (bank.group(domain) & table.selected).any():
            found[name] = share(table.correct, bank.group(domain) & table.selected, bank)
    if level in exported.row.consistency:
        # Under our name: lmms-eval's consistency_rate is agreement between repeats.
        found["reasoning_consistency"] = exported.row.consistency[level]
    values = {}
    for name, cell in found.items():
        values[f"{name},{FILTER}"] = cell.value
        values[f"{name}_stderr,{FILTER}"] = cell.se
    # Under a name of its own too, since lmms-eval computes *_stderr without clusters.
    return values | {f"clustered_se,{FILTER}": accuracy.se}


def _samples(exported: Exported, level: str) -> list[dict[str, object]]:
    run, verdicts = exported.measured.run, exported.measured.verdicts
    lines = []
    questions = [question for question in run.questions.values() if question.split == level]
    for place, question in enumerate(questions):
        record = run.records.get(question.question_id)
        # doc_id still counts every question, as lmms-eval numbers documents.
        if record is not None and record.answered:
            verdict = verdicts.get(question.question_id)
            lines.append(_sample(exported, place, question, record, verdict))
    return lines


def sample_metrics(question: Question, parsed: ParsedResponse, score: Score) -> dict[str, object]:
    """The metrics of one answer, and what its line in the samples file says.

    Every answer gives every metric, None where it does not belong: lmms-eval takes the length of the last list of
    values for the size of the task.
    """
    correct = float(score.correct)
    return {
        "accuracy": correct,
        "strict_match": float(score.strict_correct),
        "letter_given": float(parsed.answer is not None),
        "format_kept": float(parsed.format_ok),
        # A pair: the aggregation needs to know which questions share a video.
        "clustered_se": [correct, question.cluster],
        **{name: correct if question.split == level else None for level, name in LEVEL_METRICS.items()},
        **{name: correct if question.domain == domain else None for domain, name in DOMAIN_METRICS.items()},
        "question_id": question.question_id,
        "video_id": question.cluster,
        "reasoning": parsed.reasoning,
        "answer": parsed.answer,
    }


def _sample(
    exported: Exported, place: int, question: Question, record: RunRecord, verdict: Verdict | None
) -> dict[str, object]:
    generation, parsed, score = record.generation, record.parsed, record.score
    if generation is None or parsed is None or score is None:
        raise ValueError(f"{question.question_id} has no answer to export")
    line = {
        "doc_id": place,
        "target": question.gold,
        "input": build_prompt(question, exported.settings.template),
        "resps": [generation.text],
        "filtered_resps": generation.text,
        # Over the question as it was asked, so that another version of the data has another hash.
        "doc_hash": hashlib.sha256(json_line(to_json(question)).encode()).hexdigest(),
        **sample_metrics(question, parsed, score),
        "raw_text": generation.text,
    }
    return line if verdict is None else line | {"reasoning_consistency": verdict.consistent}
