"""verdicts.jsonl of a run directory: a line per verdict, append-only; the last of a judge and question counts."""

from __future__ import annotations

import json
from pathlib import Path

from seedbench_r1.files import JsonObject
from seedbench_r1.runs.records import read_lines
from seedbench_r1.typed_json import from_json, shown
from seedbench_r1.types import Verdict, to_json

NO_REASONING = "no reasoning was given"
NO_ANSWER = "no answer could be read"
UNDECIDED = "undecided"
FAILED = "failed: "  # followed by why; such verdicts are asked for again

FILE = "verdicts.jsonl"


def verdict_line(question_id: str, verdict: Verdict, run: str | None = None) -> str:
    """One line of verdicts.jsonl, newline included. run: the identity of the run that was judged."""
    value = {"question_id": question_id} | to_json(verdict) | ({} if run is None else {"run": run})
    if not verdict.votes:
        del value["votes"]
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def verdict_from_json(value: JsonObject) -> tuple[str, Verdict]:
    """The inverse of verdict_line. Raises ValueError if the value is not a verdict; the message names the field."""
    if not isinstance(value.get("question_id"), str):
        raise ValueError(f"question_id is {shown(value.get('question_id'))}")
    return value["question_id"], from_json(Verdict, value)


def load_verdicts(run_path: Path, run: str | None = None) -> dict[str, dict[str, Verdict]]:
    """judge_id -> question_id -> verdict; {} if the run was never judged.

    Args:
        run_path: the run's directory.
        run: its identity (records.run_identity), which a verdict must not contradict; None: not compared.

    Raises:
        DataError: a damaged line, or one of another run.
    """
    judges: dict[str, dict[str, Verdict]] = {}

    def build(value: JsonObject) -> tuple[str, Verdict]:
        # Versions before 0.2.0 wrote no identity.
        if run is not None and value.get("run", run) != run:
            raise ValueError(f"it judges run {shown(value.get('run'))}; this one is {run!r}")
        return verdict_from_json(value)

    for question_id, verdict in read_lines(run_path / FILE, build):
        judges.setdefault(verdict.judge_id, {})[question_id] = verdict
    return judges


def is_settled(verdict: Verdict | None) -> bool:
    """True unless there is no verdict, or it failed and may be asked for again."""
    return verdict is not None and not verdict.reason.startswith(FAILED)
