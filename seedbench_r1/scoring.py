"""ParsedResponse x Question -> Score, and records -> counts. One law for evaluation and for training rewards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from seedbench_r1.parsing import parse_response
from seedbench_r1.types import (
    FinishReason,
    GroupSummary,
    Outcome,
    ParsedResponse,
    Question,
    ReasoningProfile,
    RunRecord,
    RunSummary,
    Score,
)

_LONGEST_LETTER = 40  # characters: a letter with parentheses, emphasis, a stop, or inside an answer tag


def score(question: Question, parsed: ParsedResponse, finish_reason: FinishReason = "stop") -> Score:
    """Judge one response.

    A response that was cut at the length limit but whose answer was read counts as answered; cut and unread is
    "truncated". Both "unparsed" and "truncated" are wrong.
    """
    outcome: Outcome
    if parsed.answer is not None:
        outcome = "answered"
    else:
        outcome = "truncated" if finish_reason == "length" else "unparsed"
    return Score(
        outcome=outcome,
        correct=parsed.answer == question.gold,
        strict_correct=parsed.answer_text == question.gold,
    )


def summarise(
    records: Mapping[str, RunRecord],
    questions: Iterable[Question],
    n_total: Mapping[str, Mapping[str, int]] | None = None,
) -> RunSummary:
    """Count a run.

    Args:
        records: the record that counts, by question_id.
        questions: the questions that belong to the run.
        n_total: level -> {"all": N, domain: N} of the annotation files; without it the questions are all there are.

    Returns:
        status is "complete" only if every question of every level has an answer, "subset" if the run never meant to
        ask them all, "incomplete" otherwise.
    """
    by_level: dict[str, list[Question]] = {}
    by_domain: dict[str, list[Question]] = {}
    for question in questions:
        by_level.setdefault(question.split, []).append(question)
        if question.domain is not None:
            by_domain.setdefault(question.domain, []).append(question)
    totals = n_total or {}
    domain_totals = {name: n for level in totals.values() for name, n in level.items() if name != "all"}
    levels = {
        level: _count(group, records, totals.get(level, {}).get("all", len(group))) for level, group in by_level.items()
    }
    domains = {name: _count(group, records, domain_totals.get(name, len(group))) for name, group in by_domain.items()}
    if any(group.answered < group.selected for group in levels.values()):
        return RunSummary("incomplete", levels, domains)
    subset = any(group.selected < group.n for group in levels.values())
    return RunSummary("subset" if subset else "complete", levels, domains)


def _count(questions: list[Question], records: Mapping[str, RunRecord], n: int) -> GroupSummary:
    present = [records[question.question_id] for question in questions if question.question_id in records]
    scores = [record.score for record in present if record.score is not None]
    return GroupSummary(
        n=n,
        selected=len(questions),
        answered=len(scores),
        correct=sum(s.correct for s in scores),
        strict_correct=sum(s.strict_correct for s in scores),
        unparsed=sum(s.outcome == "unparsed" for s in scores),
        truncated=sum(s.outcome == "truncated" for s in scores),
        failed=sum(record.failure is not None for record in present),
        format_ok=sum(record.parsed.format_ok for record in present if record.parsed is not None),
    )


def lacks_reasoning(record: RunRecord) -> bool:
    """True if there is nothing to judge: no reasoning, or no answer that could be read."""
    return record.parsed is None or not record.parsed.reasoning or record.parsed.answer is None


def reasoning_profile(records: Iterable[RunRecord]) -> ReasoningProfile:
    """Length of the reasoning, and how often it is empty or nothing but a letter."""
    texts = [record.parsed.reasoning or "" for record in records if record.parsed is not None]
    words = sorted(len(text.split()) for text in texts if text)
    middle = len(words) // 2
    median = float("nan") if not words else (words[middle] + words[~middle]) / 2
    return ReasoningProfile(
        n=len(texts),
        empty=sum(not text for text in texts),
        letter_only=sum(_is_a_letter(text) for text in texts),
        median_words=median,
    )


def _is_a_letter(text: str) -> bool:
    """True if all the text says is one option's letter. Longer texts say more and need no parsing."""
    return len(text) <= _LONGEST_LETTER and parse_response(text).answer is not None
