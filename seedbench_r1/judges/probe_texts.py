"""What a probe shows a model in place of its own response: pure functions of texts."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace
from string import ascii_uppercase

from seedbench_r1.conclusions import conclusion, settled_option
from seedbench_r1.parsing import answer_block, block_span
from seedbench_r1.statements import fold
from seedbench_r1.types import Generation, Question, RunRecord

ANSWER, ANSWER_END = "<answer>", "</answer>"


def whole_text(generation: Generation) -> str:
    """What stood in the assistant's turn: what the template had opened, then the completion."""
    return generation.opened + generation.text


def until_answer(text: str) -> str:
    """A response up to where its answer begins: the opened answer tag, and the space that the model puts behind it.

    Without an answer tag the thoughts are kept, and a tag is opened behind them.
    """
    span = answer_block(text)
    if span is not None:
        content = text[span[0] : span[1]]
        return text[: span[0] + len(content) - len(content.lstrip())]
    end = text.rfind("</think>")
    return (text[: end + len("</think>")] + "\n" if end >= 0 else text) + ANSWER


def with_reasoning(text: str, reasoning: str) -> str:
    """A response with other thoughts, between the same spaces, and nothing but space from them to the answer.

    What a model writes behind its thoughts ("Therefore B.") says what they conclude, too. Raises ValueError without a
    pair of thinking tags.
    """
    span = block_span(text, "think")
    if span is None:
        raise ValueError("the response has no <think>...</think>")
    own, behind = text[span[0] : span[1]], span[1] + len("</think>")
    left, right = own[: len(own) - len(own.lstrip())], own[len(own.rstrip()) :]
    answer = text.rfind(ANSWER, behind, (answer_block(text) or (len(text), 0))[0])
    said = text[behind : answer if answer >= 0 else len(text)]
    # The space in front of the answer stays; without a tag the answer itself goes, and one is opened there.
    space = said[len(said.rstrip()) :] if answer >= 0 else ""
    rest = space + text[answer:] if answer >= 0 else ""
    return text[: span[0]] + (left + reasoning + right if reasoning else "") + "</think>" + rest


def after_template(text: str, opened: str) -> str:
    """A text of the assistant's turn as what follows the tag that a model's template opens itself.

    Raises ValueError if the text begins with anything else.
    """
    if not opened:
        return text
    if text.startswith(opened):
        return text[len(opened) :]
    if text.lstrip().startswith(opened.strip()):
        return text.lstrip()[len(opened.strip()) :].lstrip()
    raise ValueError(f"the template opens {opened.strip()!r}, and the response does not begin with it")


def answer_texts(question: Question, record: RunRecord) -> tuple[str, ...]:
    """Each option in the form in which the run's answer was written: by its letter, or by its text and the end tag.

    The end tag tells an option from one that it begins. Raises ValueError if two options have the same text, and the
    answer was written by its text.
    """
    said = "" if record.parsed is None else record.parsed.answer_text
    if not _is_a_text(said, question):
        return tuple(question.letters)
    if len({_plain(option) for option in question.options}) < len(question.options):
        raise ValueError("two options have the same text, and the answer is written by its text")
    return tuple(option + ANSWER_END for option in question.options)


def _is_a_text(said: str, question: Question) -> bool:
    return said.strip() not in question.letters and any(_plain(said) == _plain(option) for option in question.options)


def _plain(text: str) -> str:
    return fold(text).rstrip(".")


def shuffled(question: Question, seed: int) -> tuple[Question, str]:
    """The question with its options in another order, none in its place, and the former letters in the new order."""
    places = list(range(len(question.options)))
    source = random.Random(f"{seed}:shuffle:{question.question_id}")
    order = places[:]
    while any(a == b for a, b in zip(order, places, strict=True)):
        source.shuffle(order)
    letters = question.letters
    gold = letters[order.index(letters.index(question.gold))]
    options = tuple(question.options[place] for place in order)
    return replace(question, options=options, gold=gold), "".join(letters[place] for place in order)


def other_option(question: Question, not_these: Sequence[str], seed: int) -> str:
    """One of the letters that are not excluded, by the seed. Raises ValueError if none is left."""
    left = [letter for letter in question.letters if letter not in not_these]
    if not left:
        raise ValueError("there is no other option")
    return random.Random(f"{seed}:swapped:{question.question_id}").choice(left)


def rewritten(reasoning: str, options: Sequence[str], target: str) -> str:
    """The reasoning with its conclusion changed to another option, by rule.

    In the last sentence that settles on an option (conclusions), that option's text or letter is replaced; if the
    rules then read anything but the target, or there is no such sentence, the last sentence gives way to a plain one.
    """
    goal = options[ascii_uppercase.index(target)]
    found = conclusion(reasoning, options)
    if found is not None:
        sentence = reasoning[found.start : found.end]
        former = options[ascii_uppercase.index(found.letter)]
        changed, n = re.subn(rf"(?<!\w){re.escape(former)}(?!\w)", lambda _: goal, sentence, flags=re.IGNORECASE)
        # Letters only where the text did not stand: "A" is an article, too.
        changed = re.sub(rf"\b{found.letter}\b(?!\s+[a-z])", target, changed) if n == 0 else changed
        candidate = reasoning[: found.start] + changed + reasoning[found.end :]
        if settled_option(candidate, options) == target:
            return candidate
    kept = reasoning[: found.start] if found is not None else _without_last_sentence(reasoning)
    # On a line of its own: behind "A or B." no sentence begins for the rules.
    return f"{kept.rstrip()}\nSo the answer is {target}. {goal}".strip()


def _without_last_sentence(text: str) -> str:
    ends = [match.end() for match in re.finditer(r"[.!?]\s+|\n+", text.rstrip())]
    return text[: ends[-1]] if ends else ""
