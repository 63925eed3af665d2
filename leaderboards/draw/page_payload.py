"""What the page's script reads: outcomes, questions and reasoning, packed; and how much reasoning fits."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from leaderboards.board import Board
from leaderboards.outcomes import ANSWERED, FAILED, Measured, Outcomes, QuestionBank, together
from leaderboards.provenance import shareable
from leaderboards.stats import SEED
from seedbench_r1.conclusions import conclusion
from seedbench_r1.types import DOMAINS, Question, RunRecord, Verdict

Detail = Literal["auto", "none", "full"]

ZLIB_LEVEL = 4  # a quarter of level 6's time for a tenth more bytes, on 20 runs' reasoning
TRIED = 200  # questions that are packed to learn how many will fit
ANSWER_LENGTH = 400  # characters shown of an answer: without a tag it is the whole output, which is shown too
LAYER_OVERHEAD = 200  # bytes of one script element around a packed layer, at most; run_ids are not in it

# Codes of the lowest three bits of an outcome byte; 0 to 5 are those of leaderboards.outcomes.
BARE = 6  # answered without reasoning


@dataclass(frozen=True, slots=True)
class DetailShare:
    """How many of a run's responses the page carries with their text."""

    run_id: str
    n_included: int
    n_total: int  # questions with a response or a failure
    n_bytes: int  # in the file

    @property
    def full(self) -> bool:
        """True if no text had to be left out."""
        return self.n_included == self.n_total


@dataclass(frozen=True, slots=True)
class Details:
    """Packed text by run_id, and what each run got, in the order of the board's rows."""

    layers: dict[str, str]
    shares: tuple[DetailShare, ...]


def pack(data: bytes) -> str:
    """zlib, then base64: what `atob` and `DecompressionStream("deflate")` undo."""
    return base64.b64encode(zlib.compress(data, ZLIB_LEVEL)).decode("ascii")


def pack_json(value: object) -> str:
    """The same of a JSON value. Lone surrogates, which JSON may hold and UTF-8 may not, become question marks."""
    return pack(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))


def outcome_bytes(table: Outcomes) -> bytes:
    """One byte a question of the bank.

    Bits 0-2: outcome (see leaderboards.outcomes; 6: answered without reasoning). 3-4: the letter picked, A to D, where
    there is one; of letters behind D see letter_bytes. 5: correct. 6-7: verdict: 0 none, 1 not consistent, 2
    consistent.
    """
    outcome = np.where((table.outcome == ANSWERED) & table.bare, BARE, table.outcome).astype(np.uint8)
    picked = np.maximum(table.picked, 0).astype(np.uint8) & 3
    verdict = (table.consistent + 1).astype(np.uint8)
    return (outcome | picked << 3 | table.correct.astype(np.uint8) << 5 | verdict << 6).tobytes()


def letter_bytes(table: Outcomes) -> bytes:
    """One byte a question of the bank: the letter picked, 1 for A to 26 for Z; 0: none."""
    return (table.picked + 1).astype(np.uint8).tobytes()


def more_layers(board: Board) -> dict[str, str]:
    """What only some boards need.

    Letters behind D; credits between 0 and 1 (float64), of own questions and of runs of several samples; of these also
    SampleCounts, four bytes a question: judged, consistent, sound, and right without a verdict.
    """
    tables = [measured.outcomes for measured in board.measured.values()]
    layers = {}
    if any((table.picked > 3).any() for table in tables) or not board.bank.choice.all():
        layers["letters"] = pack(b"".join(letter_bytes(table) for table in tables))
    if any(table.credit is not table.correct for table in tables):
        layers["credits"] = pack(b"".join(table.credits.astype("<f8").tobytes() for table in tables))
    if any(table.counts is not None for table in tables):
        layers["samples"] = pack(b"".join(_sample_bytes(table) for table in tables))
    return layers


def _sample_bytes(table: Outcomes) -> bytes:
    # One answer is one sample.
    counts = table.counts or together([table]).counts
    assert counts is not None
    columns = (counts.judged, counts.consistent, counts.sound, counts.right_unjudged)
    return np.stack(columns, axis=1).astype(np.uint8).tobytes()


def bank_layer(bank: QuestionBank) -> dict[str, object]:
    """The question bank as columns. The goal is cut out of the question's text, so that wordings repeat."""
    # Text -> its number, in the order of first appearance.
    goals: dict[str, int] = {}
    wordings: dict[str, int] = {}
    levels: dict[str, int] = {}
    videos = dict(zip(bank.video.tolist(), (question.cluster for question in bank.questions), strict=True))
    return {
        "ids": [question.question_id for question in bank.questions],
        "wording": [_number(wordings, _wording(question)) for question in bank.questions],
        "goal": [_number(goals, question.task_goal or "") for question in bank.questions],
        "level": [_number(levels, level) for level in bank.level.tolist()],
        "domain": [DOMAINS.index(q.domain) if q.domain in DOMAINS else -1 for q in bank.questions],
        "video": bank.video.tolist(),
        "gold": _golds(bank),
        "options": [question.options for question in bank.questions],
        "progress": ["\n".join(step.narration for step in question.progress) for question in bank.questions],
        "goals": list(goals),
        "wordings": list(wordings),
        "levels": list(levels),
        "domains": DOMAINS,
        "videos": [videos[code] for code in range(len(videos))],
    }


class ResponseText(NamedTuple):
    """What the card shows of one response, apart from its outcome."""

    reasoning: str | None
    output: str | None  # the whole of it where it is not think and answer alone, or why there is none
    answer: str | None
    n_tokens: int | None
    latency_s: float | None
    judge_reason: str | None
    votes: str  # "+-+"
    settles: tuple[int, int] | None  # the sentence of a judged reasoning that settles on an option (UTF-16 offsets)


Texts = dict[tuple[str, int], ResponseText]  # by run_id and place


def detail_layer(
    measured: Measured, bank: QuestionBank, places: Iterable[int], made: Texts | None = None
) -> dict[str, list[object]]:
    """Text of the responses at these places of the bank, by columns, which compress better than rows.

    p is the place; the others are the fields of ResponseText in their order. made: texts that are known, added to.
    """
    ordered = sorted(places)
    made = {} if made is None else made
    texts = []
    for place in ordered:
        key, question = (measured.run_id, place), bank.questions[place]
        if key not in made:
            record, verdict = measured.run.records[question.question_id], measured.verdicts.get(question.question_id)
            made[key] = _text(record, verdict, question.options)
        texts.append(made[key])
    columns: dict[str, list[object]] = {"p": [*ordered]}
    return columns | {letter: [text[i] for text in texts] for i, letter in enumerate("rxatsvkm")}


def allocate(board: Board, detail: Detail, budget: int) -> Details:
    """Choose whose text the page carries.

    auto: the same questions of all runs, so that any two can be compared, as many as fit into `budget` bytes, the most
    telling first (by_interest). full: everything, whatever the budget. none: nothing.
    """
    order = [] if detail == "none" else by_interest(list(board.measured.values()), board.bank)
    n, layers = _fit(board, order, budget) if detail == "auto" else (len(order), _pack(board, order))
    asked = set(order[:n])
    shares = []
    for run_id, measured in board.measured.items():
        present = np.flatnonzero(measured.outcomes.outcome >= FAILED).tolist()
        carried = len(asked.intersection(present)) if run_id in layers else 0
        shares.append(DetailShare(run_id, carried, len(present), len(layers.get(run_id, ""))))
    return Details(layers, tuple(shares))


def by_interest(runs: Sequence[Measured], bank: QuestionBank) -> list[int]:
    """Places in the bank of all responses and failures, the most informative first.

    What some runs have right and others wrong; then right answers whose reasoning says otherwise; then failures and
    answers that are cut or could not be read; then a seeded sample, in which levels have their shares.
    """
    tables = [measured.outcomes for measured in runs]
    right = sum((table.correct & table.responded).astype(int) for table in tables)
    wrong = sum((~table.correct & table.responded).astype(int) for table in tables)
    lucky = np.logical_or.reduce([table.responded & table.correct & (table.consistent == 0) for table in tables])
    broken = np.logical_or.reduce([(table.outcome >= FAILED) & (table.outcome != ANSWERED) for table in tables])
    present = np.logical_or.reduce([table.outcome >= FAILED for table in tables])
    ranks = np.select([(right > 0) & (wrong > 0), lucky, broken], [0, 1, 2], default=3)
    shuffled = np.random.PCG64(SEED).random_raw(len(present))  # levels are met in proportion to their sizes
    order = np.lexsort((shuffled, ranks))
    places: list[int] = order[present[order]].tolist()
    return places


def _pack(board: Board, places: Sequence[int], made: Texts | None = None) -> dict[str, str]:
    """run_id -> the text of its responses at these places, packed; no entry for a run that has none there."""
    layers = {}
    for run_id, measured in board.measured.items():
        # Of several samples the first one's text: it may not have been asked yet what another has answered.
        records = measured.run.records
        own = [
            place
            for place in places
            if measured.outcomes.outcome[place] >= FAILED and board.bank.questions[place].question_id in records
        ]
        if own:
            layers[run_id] = pack_json(detail_layer(measured, board.bank, own, made))
    return layers


def _size(layers: dict[str, str]) -> int:
    return sum(len(text) + LAYER_OVERHEAD for text in layers.values())


def _fit(board: Board, order: Sequence[int], budget: int) -> tuple[int, dict[str, str]]:
    """As many of these places, from the first on, as the budget allows, and their text; (0, {}) for none."""
    n = len(order)
    made: Texts = {}  # each text is read once, however often it is packed
    if n > TRIED:
        # What the first few take says about how many will fit; many compress better than few.
        few = max(1, _size(_pack(board, order[:TRIED], made)))
        n = min(n, int(1.15 * TRIED * max(0, budget) / few))
    while n > 0:
        layers = _pack(board, order[:n], made)
        size = _size(layers)
        if size <= budget:
            return n, layers
        # In proportion, less 2 % for what compresses worse, and always at least one less.
        n = min(n - 1, int(n * 0.98 * max(0, budget) / size))
    return 0, {}


def _text(record: RunRecord, verdict: Verdict | None, options: Sequence[str]) -> ResponseText:
    reason = verdict.reason if verdict is not None else None
    votes = "".join("+" if vote else "-" for vote in verdict.votes) if verdict is not None else ""
    if record.generation is None or record.parsed is None:
        message = shareable(f"{record.failure.kind}: {record.failure.message}") if record.failure is not None else ""
        return ResponseText(None, message, None, None, None, reason, votes, None)
    generation, parsed = record.generation, record.parsed
    output = None if parsed.format_ok else generation.text
    # Hundredths: more digits would be noise, and bytes.
    latency = None if generation.latency_s is None else round(generation.latency_s, 2)
    answer = parsed.answer_text[:ANSWER_LENGTH]
    settles = _settles(parsed.reasoning, options) if verdict is not None and parsed.reasoning else None
    return ResponseText(parsed.reasoning, output, answer, generation.n_tokens, latency, reason, votes, settles)


def _settles(reasoning: str, options: Sequence[str]) -> tuple[int, int] | None:
    found = conclusion(reasoning, options)
    if found is None:
        return None
    # The script counts in UTF-16.
    before, sentence = reasoning[: found.start], reasoning[found.start : found.end]
    start, length = (len(text.encode("utf-16-le", "surrogatepass")) // 2 for text in (before, sentence))
    return start, start + length


def _golds(bank: QuestionBank) -> str | list[str]:
    """A letter a question as one text, which is small; of other kinds a list of answers."""
    golds = [question.gold for question in bank.questions]
    return "".join(golds) if bank.choice.all() else golds


def _wording(question: Question) -> str:
    return question.text.replace(question.task_goal, "\u0001") if question.task_goal else question.text


def _number(known: dict[str, int], text: str) -> int:
    """The number of a text; a new one goes last."""
    return known.setdefault(text, len(known))
