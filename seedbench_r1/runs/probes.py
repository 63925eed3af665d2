"""probes.jsonl of a run directory: what became of answers when the reasoning before them was changed.

A line per probe and question, append-only; the last one counts. Letters are those of the question's own order.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container
from dataclasses import dataclass
from pathlib import Path

from seedbench_r1.errors import DataError
from seedbench_r1.files import JsonObject
from seedbench_r1.runs.records import read_lines
from seedbench_r1.typed_json import from_json, shown
from seedbench_r1.types import Question, to_json

FILE = "probes.jsonl"
ROLLOUTS = "probe_rollouts.jsonl"  # completions that probe `swapped` has drawn
FAILED = "failed: "  # how the note of a result begins that is asked for again
NO_OPTION = "no option"  # the note where a text model has found none


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One question under one probe. Probabilities are among the options, which sum to 1."""

    probe_id: str  # name, version, and what else decides the result
    before: str  # the letter that the run's answer gave
    after: str | None  # the likeliest letter under the probe; None: the note says why there is none
    p_before: float | None = None  # probability of `before` under the probe; None: the probe reads a text's answer
    p_after: float | None = None
    target: str | None = None  # the letter that the changed reasoning concludes, where a probe changes that
    changed: str = ""  # what was shown instead: the order of the options, or the reasoning
    note: str = ""  # where a changed reasoning is from, or why there is no result

    @property
    def settled(self) -> bool:
        """False for a failure, which is asked for again."""
        return not self.note.startswith(FAILED)


Says = Callable[[ProbeResult, Question], bool]


@dataclass(frozen=True, slots=True)
class ProbeKind:
    """What a probe is, in words and as counts of its results."""

    name: str
    rate: str  # what the rate is a share of
    counts: Says  # whether a result counts towards the rate
    supports: Says  # what it says of the run's answer: that the reasoning carries it
    shows: str
    shows_not: str
    # Variant, as probe ids go on after the version -> mean balanced accuracy of `supports` against the miniature's
    # truth (docs/miniature.md). "": of the run's own model.
    agreement: dict[str, float]


RELIABLE = 0.7


def agreement_of(probe_id: str) -> float | None:
    """How well a probe tells single answers whose reasoning supports them from others; None: not measured."""
    name, _, variant = (*probe_id.split("/", 2), "")[:3]
    found = KINDS[name].agreement
    return next((value for begins, value in found.items() if variant.startswith(begins)), None)


def is_exploratory(probe_id: str) -> bool:
    """Whether it tells them too badly to be relied on, or nobody knows how well."""
    value = agreement_of(probe_id)
    return value is None or value < RELIABLE


def _stays(result: ProbeResult, _: Question) -> bool:
    return result.after == result.before


def _moves(result: ProbeResult, _: Question) -> bool:
    return result.after != result.before


def _follows(result: ProbeResult, _: Question) -> bool:
    return result.after == result.target


def _is_right(result: ProbeResult, question: Question) -> bool:
    return result.after == question.gold


KINDS: dict[str, ProbeKind] = {
    kind.name: kind
    for kind in (
        ProbeKind(
            "forced",
            "answers that are the likeliest after their reasoning",
            _stays,
            _stays,
            "It shows whether a model, given the reasoning, finds the answer that was given the likeliest.",
            "It does not show that the reasoning is right. Under the run's own model and near temperature 0 it holds "
            "by construction: the likeliest answer was given. Name another model with --under.",
            agreement={"under:": 0.67, "": 0.55},
        ),
        ProbeKind(
            "text-match",
            "answers that the reasoning leads to without clip and image",
            _stays,
            _stays,
            "It shows whether a reader who sees neither clip nor image is led to the answer by the reasoning.",
            "It does not show that the model itself went by its reasoning.",
            agreement={"by:own model": 0.55},
        ),
        ProbeKind(
            "shuffle",
            "answers that move with their text when the options change places",
            _stays,
            _stays,
            "It shows whether the answer follows what the reasoning says, and not a letter or a place.",
            "It does not show that the reasoning was needed. Reasoning that names letters leads to other options then.",
            agreement={"": 0.54},
        ),
        ProbeKind(
            "swapped",
            "answers that follow reasoning which concludes another option",
            _follows,
            _follows,
            "It shows whether the answer goes with the reasoning when that concludes another option.",
            "It does not show what the model does with its own reasoning, which clip and image may contradict less.",
            agreement={"": 0.50},
        ),
        ProbeKind(
            "silent",
            "answers that are right without any reasoning",
            _is_right,
            _moves,
            "It shows what accuracy is left when no reasoning stands before the answer.",
            "It does not show that reasoning which stands there is used: an answer that stays the same may need it or "
            "not.",
            agreement={"": 0.51},
        ),
    )
}


def kind_of(probe_id: str) -> ProbeKind:
    """The kind that a probe id begins with. Raises KeyError for another version's."""
    return KINDS[probe_id.partition("/")[0]]


def probe_line(question_id: str, result: ProbeResult, run: str) -> str:
    """One line of probes.jsonl, newline included. run: the identity of the run that was probed."""
    known = {name: value for name, value in to_json(result).items() if value not in (None, "") or name == "after"}
    return json.dumps({"question_id": question_id} | known | {"run": run}, ensure_ascii=False) + "\n"


def load_probes(
    run_path: Path, run: str | None = None, questions: Container[str] | None = None
) -> dict[str, dict[str, ProbeResult]]:
    """probe_id -> question_id -> result; {} if the run was never probed.

    Args:
        run_path: the run's directory.
        run: its identity (records.run_identity), which a line must have; None: not compared.
        questions: ids of the run's questions, of which a line must be; None: not compared.

    Raises:
        DataError: a damaged line, or one of another run.
    """
    found: dict[str, dict[str, ProbeResult]] = {}

    def build(value: JsonObject) -> tuple[str, ProbeResult]:
        if run is not None and value.get("run") != run:
            raise ValueError(f"it probes run {shown(value.get('run'))}; this one is {run!r}")
        if not isinstance(value.get("question_id"), str):
            raise ValueError(f"question_id is {shown(value.get('question_id'))}")
        if questions is not None and value["question_id"] not in questions:
            raise ValueError(f"{shown(value['question_id'])} is no question of this run")
        result = from_json(ProbeResult, value)
        if result.probe_id.partition("/")[0] not in KINDS:
            raise ValueError(f"there is no probe {shown(result.probe_id)}")
        return value["question_id"], result

    for question_id, result in read_lines(run_path / FILE, build):
        found.setdefault(result.probe_id, {})[question_id] = result
    return found


@dataclass(frozen=True, slots=True)
class Rollout:
    """One more completion of a question that was drawn for probe `swapped`."""

    k: int
    text: str
    opened: str = ""  # as Generation.opened


def rollout_line(question_id: str, drawn: str, rollout: Rollout, run: str) -> str:
    """One line of probe_rollouts.jsonl. drawn: how it was drawn; only equal ones are mixed."""
    value = {"question_id": question_id, "drawn": drawn} | to_json(rollout) | {"run": run}
    return json.dumps(value, ensure_ascii=False) + "\n"


def load_rollouts(run_path: Path, drawn: str, run: str) -> dict[str, dict[int, Rollout]]:
    """question_id -> k -> rollout, of those drawn in this way. Raises DataError as load_probes does."""
    found: dict[str, dict[int, Rollout]] = {}

    def build(value: JsonObject) -> tuple[str, str, Rollout]:
        if value.get("run") != run or not isinstance(value.get("question_id"), str):
            raise ValueError(f"it is of run {shown(value.get('run'))}; this one is {run!r}")
        return value["question_id"], str(value.get("drawn")), from_json(Rollout, value)

    for question_id, how, rollout in read_lines(run_path / ROLLOUTS, build):
        if how == drawn:
            found.setdefault(question_id, {})[rollout.k] = rollout
    return found


def check_not_imported(path: Path, protocol: str) -> None:
    """Raise DataError for a run whose answers another program has made."""
    if protocol.startswith("imported"):
        raise DataError(
            f"{path} was imported: which model answered, and how it was asked, is not known, so nothing can be asked "
            f"again. Fix: evaluate the model here; or --probes text-match --text-model MODEL, which needs texts only."
        )
