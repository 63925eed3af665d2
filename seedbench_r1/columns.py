"""Which column of a question file holds what: found by its usual name, or named by --map."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Literal

from seedbench_r1.errors import ConfigError
from seedbench_r1.types import Kind

GoldForm = Literal["letter", "text", "index from 0", "index from 1"]

# Field -> usual names of its column, the likeliest first, in the form of `_plain`
NAMES: dict[str, tuple[str, ...]] = {
    "text": ("question", "text", "prompt", "problem", "query"),
    "options": ("options", "choices", "candidates"),
    "gold": (
        *("golden_choice_idx", "answer", "gold", "label", "correct_answer", "gold_answer", "ground_truth", "solution"),
        *("answer_letter", "answer_idx", "answer_index", "correct_option", "correct_choice", "correct"),
    ),
    "video": ("video", "video_path", "clip", "video_file", "clip_path", "video_name"),
    "image": ("image", "image_path", "image_file", "picture", "frame"),
    "split": ("split", "subset"),
    "cluster": ("cluster", "video_id", "recording", "source_video"),
    "kind": ("kind", "problem_type", "question_type", "answer_type"),
    "id": ("id", "qid", "uid", "question_id", "sample_id", "problem_id"),
    "domain": ("category", "domain", "topic"),
    "response": ("response", "completion"),
    "reasoning": ("reasoning", "rationale", "process", "cot", "chain_of_thought", "thoughts", "explanation"),
}
TARGETS = ("response", "reasoning")  # what a row teaches in supervised fine-tuning: no part of the question
# What a gold answer is, where the file does not show it: --map gold.0=label
GOLD_FORMS: dict[str, GoldForm] = {
    "gold.letter": "letter",
    "gold.text": "text",
    "gold.0": "index from 0",
    "gold.1": "index from 1",
}
# Words of a kind column
KINDS: dict[str, Kind] = {
    **dict.fromkeys(("choice", "multiple_choice", "multi_choice", "mcq", "mc", "choices"), "choice"),
    **dict.fromkeys(("numerical", "number", "numeric"), "numerical"),
    "regression": "regression",
    "ocr": "ocr",
    **dict.fromkeys(("free_form", "freeform", "open", "open_ended", "openended", "text"), "free-form"),
}
_ONE_OPTION = re.compile(r"(?:(?P<stem>choice|option|candidate|opt)_?)?(?P<place>[a-z]|\d{1,2})")


@dataclass(frozen=True, slots=True)
class Columns:
    """What is read from where."""

    taken: dict[str, tuple[str, ...]]  # field -> columns; several of `options` and `gold` only
    left: tuple[str, ...]  # columns that nothing is read from
    kind: Kind | None = None  # of every row, where --map says so
    gold_form: GoldForm | None = None  # where --map says so

    def of(self, field: str) -> tuple[str, ...]:
        """The field's columns; none if it has none."""
        return self.taken.get(field, ())

    def name(self, field: str) -> str:
        """How messages call a field: by its column, or by the first of its usual names."""
        columns = self.of(field)
        return columns[0] if columns else NAMES[field][0]

    def identity(self, *, targets: bool = False) -> list[object]:
        """What decides how a file is read, for its hash; targets: what its rows teach counts, too."""
        read = sorted((field, list(names)) for field, names in self.taken.items() if targets or field not in TARGETS)
        return [read, self.kind, self.gold_form]


def parse_map(text: str | None) -> dict[str, str]:
    """ "text=question,options=a+b+c" -> {"text": "question", "options": "a+b+c"}. Raises ConfigError."""
    found: dict[str, str] = {}
    for pair in (text or "").split(","):
        if not pair.strip():
            continue
        field, sign, column = (part.strip() for part in pair.partition("="))
        known = (*NAMES, *GOLD_FORMS)
        if not sign or not column or field not in known:
            nearest = difflib.get_close_matches(field, known, n=1)
            meant = f" Did you mean {nearest[0]!r}?" if nearest and field not in known else ""
            raise ConfigError(
                f"--map {pair.strip()!r} is not understood: FIELD=COLUMN is, where FIELD is one of "
                f"{', '.join(known)}.{meant}"
            )
        if field in found or (field.partition(".")[0] == "gold" and any(other[:4] == "gold" for other in found)):
            raise ConfigError(f"--map names {field.partition('.')[0]!r} twice. Fix: once.")
        found[field] = column
    if all(field in found for field in TARGETS):
        raise ConfigError("--map names response and reasoning; a response holds its reasoning. Fix: one of them.")
    return found


def find_columns(seen: Sequence[str], mapping: Mapping[str, str]) -> Columns:
    """The columns of a file, by mapping and by name.

    Args:
        seen: names of all columns, in the file's order.
        mapping: from parse_map.

    Raises:
        ConfigError: a mapped column is not there; the message has the nearest name.
    """
    taken: dict[str, tuple[str, ...]] = {}
    kind: Kind | None = None
    form: GoldForm | None = None
    for field, value in mapping.items():
        # "kind=regression" says it of every row, unless a column is called so.
        if field == "kind" and value not in seen and _plain(value) in KINDS:
            kind = KINDS[_plain(value)]
            continue
        form = GOLD_FORMS.get(field, form)
        taken[field.partition(".")[0]] = _mapped(field, value, seen)
    used = {name for names in taken.values() for name in names}
    free = [name for name in seen if name not in used]
    for field in NAMES:
        if field in taken or (field == "kind" and kind is not None):
            continue
        # A response holds its reasoning, which some files have in a column of its own as well.
        if field in TARGETS and any(other in taken for other in TARGETS):
            continue
        if found := _named(field, free):
            taken[field] = found
            free = [name for name in free if name not in found]
    return Columns(taken, tuple(free), kind, form)


def _mapped(field: str, value: str, seen: Sequence[str]) -> tuple[str, ...]:
    # A column may have a plus in its name.
    names = (value,) if value in seen else tuple(part.strip() for part in value.split("+"))
    if len(names) > 1 and field.partition(".")[0] not in ("options", "gold"):
        raise ConfigError(f"--map {field}={value}: {field} is read from one column.")
    for name in names:
        if name not in seen:
            plain = {_plain(other): other for other in seen}
            nearest = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.5)
            meant = f" Did you mean {plain[nearest[0]]!r}?" if nearest else ""
            raise ConfigError(f"--map {field}={value}: no column {name!r}.{meant} There are: {', '.join(seen)}.")
    return names


def _named(field: str, free: Sequence[str]) -> tuple[str, ...]:
    """The columns of a field by their names. Of gold all that there are: they have to agree."""
    plain: dict[str, str] = {}
    for name in free:
        plain.setdefault(_plain(name), name)
    found = [plain[name] for name in NAMES[field] if name in plain]
    if field == "gold":
        return tuple(found)
    if field == "options" and not found:
        return _one_by_one(plain)
    return tuple(found[:1])


def _one_by_one(plain: Mapping[str, str]) -> tuple[str, ...]:
    """Columns that hold an option each: choice_a, choice_b ...; option1, option2 ...; A, B, ..."""
    rows: dict[tuple[str, bool], dict[int, str]] = {}
    for name, column in plain.items():
        match = _ONE_OPTION.fullmatch(name)
        # A column called "1" says nothing.
        if match and (match["stem"] or match["place"].isalpha()):
            digits = match["place"].isdigit()
            place = int(match["place"]) if digits else ascii_lowercase.index(match["place"])
            rows.setdefault((match["stem"] or "", digits), {})[place] = column
    for (stem, digits), places in rows.items():
        first = min(places)
        run = list(itertools.takewhile(places.__contains__, itertools.count(first)))
        # "x" and "y" alone are no options, and neither is a lone "a".
        if len(places) < 2 or first > (1 if digits else 0):
            continue
        # Of single letters the first ones in a row: "x" and "y" behind "a" and "b" are something else.
        if stem and len(run) < len(places):
            raise ConfigError(
                f"Columns {', '.join(places.values())} hold an option each, and one between them is not there. "
                f"Fix: --map options=COLUMN+COLUMN+..., in their order."
            )
        if len(run) < 2:
            continue
        return tuple(places[place] for place in run)
    return ()


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def kind_named(word: object) -> Kind | None:
    """The kind that a cell of a kind column names; None if it names none."""
    return KINDS.get(_plain(word)) if isinstance(word, str) else None


def union(seen: dict[str, None], names: Iterable[str]) -> bool:
    """Add names that are new, in place; whether there were any."""
    before = len(seen)
    seen.update(dict.fromkeys(names))
    return len(seen) > before
