"""A run's questions as lines of Every Eval Ever's per-instance file."""

from __future__ import annotations

import hashlib

from leaderboards.exports.common import Exported
from leaderboards.provenance import shareable
from seedbench_r1.types import Question, RunRecord, Verdict

SCHEMA_VERSION = "0.3.0"


def sample_lines(exported: Exported, evaluation_id: str, model_id: str) -> list[dict[str, object]]:
    """One line a question of the run, in its order, pointing at the accuracy of its level.

    A question that failed or was not reached has an `error`, no output and score 0, as it counts in the aggregate.
    """
    run = exported.measured.run
    head = {"schema_version": SCHEMA_VERSION, "evaluation_id": evaluation_id, "model_id": model_id}
    return [
        head | _line(question, run.records.get(question_id), exported.measured.verdicts.get(question_id), exported)
        for question_id, question in run.questions.items()
    ]


def _line(
    question: Question, record: RunRecord | None, verdict: Verdict | None, exported: Exported
) -> dict[str, object]:
    # Letter and text, since others' parsers read one or the other.
    reference = [question.gold, question.gold_text]
    line: dict[str, object] = {
        "evaluation_name": f"SEED-Bench-R1 {question.split}",
        "evaluation_result_id": f"{question.split}/accuracy",
        "sample_id": question.question_id,
        # Question and reference: equal for every model, so that their answers can be joined.
        "sample_hash": hashlib.sha256((question.text + "".join(reference)).encode("utf-8", "replace")).hexdigest(),
        "interaction_type": "single_turn",
        "input": {"raw": question.text, "reference": reference, "choices": list(question.options)},
    }
    # No answer is not a wrong one: an error, with the score that the aggregate counts.
    if record is None or record.generation is None or record.parsed is None or record.score is None:
        return line | _unanswered(question, record)
    generation, parsed = record.generation, record.parsed
    line |= {
        "output": {
            "raw": [generation.text],
            "reasoning_trace": None if parsed.reasoning is None else [parsed.reasoning],
        },
        "answer_attribution": _attribution(parsed.answer, exported.manifest.parser_version),
        "evaluation": {"score": float(record.score.correct), "is_correct": record.score.correct},
        "metadata": _metadata(question, record, verdict),
    }
    # Imported answers may not know their tokens; half a count would be read as all of it.
    if generation.n_prompt_tokens is not None and generation.n_tokens is not None:
        total = generation.n_prompt_tokens + generation.n_tokens
        line["token_usage"] = {
            "input_tokens": generation.n_prompt_tokens,
            "output_tokens": generation.n_tokens,
            "total_tokens": total,
        }
    if generation.latency_s is not None:
        line["performance"] = {"latency_ms": 1000 * generation.latency_s}
    return line


def _unanswered(question: Question, record: RunRecord | None) -> dict[str, object]:
    failure = record.failure if record is not None else None
    error = "not answered" if failure is None else shareable(f"{failure.kind}: {failure.message}")
    return {
        "output": {"raw": []},
        "answer_attribution": [],
        "evaluation": {"score": 0.0, "is_correct": False},
        "error": error,
        "metadata": _place(question) | {"outcome": "unanswered" if failure is None else "failed"},
    }


def _attribution(answer: str | None, parser_version: int) -> list[dict[str, object]]:
    if answer is None:
        return []
    return [
        {
            "turn_idx": 0,
            # Where the letter was read from, and by which version of the parser.
            "source": "output.raw",
            "extracted_value": answer,
            "extraction_method": f"seedbench-r1 parser {parser_version}",
            "is_terminal": True,
        }
    ]


def _metadata(question: Question, record: RunRecord, verdict: Verdict | None) -> dict[str, str]:
    found = _place(question)
    if record.score is not None and record.parsed is not None and record.generation is not None:
        found |= {
            "outcome": record.score.outcome,
            "strict_correct": str(record.score.strict_correct).lower(),
            "format_ok": str(record.parsed.format_ok).lower(),
            "finish_reason": record.generation.finish_reason,
        }
    if verdict is not None:
        # Every value of metadata is a string in this schema.
        words = {True: "true", False: "false", None: "undecided"}
        found |= {"consistent": words[verdict.consistent], "judge": verdict.judge_id, "judge_reason": verdict.reason}
    return found


def _place(question: Question) -> dict[str, str]:
    # Only L3 has domains; an empty one would be a fifth domain.
    domain = {"domain": question.domain} if question.domain else {}
    return {"level": question.split, "video_id": question.cluster} | domain
