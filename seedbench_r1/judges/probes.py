"""Probes: the reasoning before an answer is kept, removed or exchanged, and the model is asked again what it answers.

No judge decides: each option's probability is read off the model, after a prefix that it is given as its own words
(backends.base.Scorer). Which probes there are, and what they show, is in runs/probes.py.
"""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from seedbench_r1.conclusions import settled_option
from seedbench_r1.judges.models import text_request
from seedbench_r1.judges.probe_texts import (
    after_template,
    answer_texts,
    other_option,
    rewritten,
    shuffled,
    until_answer,
    whole_text,
    with_reasoning,
)
from seedbench_r1.judges.run import JudgeCase
from seedbench_r1.judges.wording import build_judge_prompt
from seedbench_r1.parsing import parse_response
from seedbench_r1.prompts import build_request
from seedbench_r1.runs.probes import FAILED, NO_OPTION, ProbeResult, Rollout
from seedbench_r1.types import Failure, Generation, Media, Question, Request, RunRecord, Template

VERSION = "v1"  # of all probes: raise it whenever one asks otherwise
ALONE = Media(None, (), None, None, None, None)  # no clip, no image


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request stands for: the result, but for the probabilities."""

    result: ProbeResult
    letters: str  # of the question's own order, one for each continuation


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe as it is carried out: its kind, and all that decides its results."""

    kind: str
    probe_id: str
    seed: int = 0
    under: bool = False  # forced: by another model than the run's
    text_model: bool = False  # text-match: a text model is asked, and no prefix is continued

    @property
    def needs_media(self) -> bool:
        return self.kind != "text-match"


def requests_of(
    probe: Probe,
    question: Question,
    record: RunRecord,
    media: Media,
    template: Template,
    opened_for: Callable[[Request], str],
    rollouts: Mapping[int, Rollout],
) -> tuple[Request, Asked]:
    """What a model is asked about one answer.

    Args:
        probe: any but text-match with a text model.
        question: the question.
        record: the run's answer, with reasoning.
        media: its clip and image.
        template: the run's wording.
        opened_for: what the chat template of the model that is asked opens in the assistant's turn.
        rollouts: further completions of the question (swapped).

    Raises:
        ValueError: this answer cannot be probed so; the message says why.
    """
    generation, parsed = record.generation, record.parsed
    if generation is None or parsed is None or parsed.answer is None:
        raise ValueError("there is no answer")
    text, shown, letters = whole_text(generation), question, question.letters
    texts = answer_texts(question, record)
    result = ProbeResult(probe.probe_id, before=parsed.answer, after=None)
    match probe.kind:
        case "text-match":
            shown, media = replace(question, video=None, image=None), ALONE
        case "shuffle":
            shown, letters = shuffled(question, probe.seed)
            # Letters stay where they are, texts go along.
            texts = answer_texts(shown, record) if texts[0] == "A" else tuple(_moved(texts, question, letters))
            result = replace(result, changed=letters)
        case "swapped":
            donor, target, source = exchanged(question, record, rollouts, probe.seed)
            text = with_reasoning(text, donor)
            result = replace(result, target=target, changed=donor, note=source)
        case "silent":
            text = with_reasoning(text, "")
    name = f"{probe.probe_id} {question.question_id}"
    request = replace(build_request(shown, media, template), question_id=name)
    prefix = after_template(until_answer(text), opened_for(request))
    return replace(request, prefix=prefix, continuations=texts), Asked(result, letters)


def _moved(texts: Sequence[str], question: Question, order: str) -> list[str]:
    return [texts[question.letters.index(letter)] for letter in order]


def exchanged(
    question: Question, record: RunRecord, rollouts: Mapping[int, Rollout], seed: int
) -> tuple[str, str, str]:
    """Reasoning that concludes another option than the answer given, that option, and where the reasoning is from.

    The first rollout, in their order, whose reasoning settles on such an option (conclusions); without one the
    answer's own reasoning with its conclusion rewritten.
    """
    parsed = record.parsed
    if parsed is None or parsed.answer is None or not parsed.reasoning:
        raise ValueError("there is no reasoning")
    own = settled_option(parsed.reasoning, question.options)
    for k, rollout in sorted(rollouts.items()):
        reasoning = parse_response(rollout.text, question.options, question.letters, opened=rollout.opened).reasoning
        concluded = settled_option(reasoning, question.options) if reasoning else None
        if reasoning and concluded is not None and concluded not in (parsed.answer, own):
            return reasoning, concluded, f"rollout {k}"
    taken = [parsed.answer] if own is None or len(question.options) == 2 else [parsed.answer, own]
    target = other_option(question, taken, seed)
    return rewritten(parsed.reasoning, question.options, target), target, "rewritten"


def read_scores(asked: Asked, scores: Sequence[float] | Failure) -> ProbeResult:
    """The result of a request: probabilities among the options, by a softmax over the continuations' logs."""
    if isinstance(scores, Failure):
        return replace(asked.result, note=f"{FAILED}{scores.message}")
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    shares = {letter: weight / sum(weights) for letter, weight in zip(asked.letters, weights, strict=True)}
    # Of equal ones the answer given: a probe that changes nothing must not move it.
    before = asked.result.before
    after = max(shares, key=lambda letter: (shares[letter], letter == before))
    return replace(asked.result, after=after, p_before=round(shares[before], 6), p_after=round(shares[after], 6))


def text_prompt() -> str:
    """What a text model is asked (text-match)."""
    return importlib.resources.files("seedbench_r1.judges").joinpath("probe_prompt_v1.txt").read_text(encoding="utf-8")


def text_match_request(probe: Probe, question: Question, record: RunRecord) -> tuple[Request, Asked]:
    """What a text model is asked about an answer. Raises ValueError if there is no reasoning or no answer."""
    parsed = record.parsed
    if parsed is None or parsed.answer is None or not parsed.reasoning:
        raise ValueError("there is no reasoning")
    case = JudgeCase(question.question_id, question.text, question.options, parsed.reasoning, parsed.answer)
    request = text_request(f"{probe.probe_id} {question.question_id}", build_judge_prompt(case, text_prompt()))
    return request, Asked(ProbeResult(probe.probe_id, before=parsed.answer, after=None), question.letters)


def read_reply(asked: Asked, reply: Generation | Failure, question: Question) -> ProbeResult:
    """The result of a text model's reply."""
    if isinstance(reply, Failure):
        return replace(asked.result, note=f"{FAILED}{reply.message}")
    if reply.finish_reason == "length":
        return replace(asked.result, note=f"{FAILED}cut at the limit of {reply.n_tokens} tokens")
    letter = parse_response(reply.text, question.options, question.letters, opened=reply.opened).answer
    return replace(asked.result, after=letter, note="" if letter else NO_OPTION)
