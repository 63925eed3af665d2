"""Reasoning in the miniature world's controlled language, and what it concludes."""

from __future__ import annotations

import re
from random import Random
from typing import Literal

from seedbench_r1.demo.world import CHORES, ITEMS, WITH_VIDEO, WITHOUT_VIDEO, Situation, actions

Kind = Literal["sound", "inconsistent", "wrong"]  # of a response

_CONCLUSION = re.compile(r"\bSo I should ([a-z ]+)\.")
_STEPS = {item.action(state): (item, state) for item in ITEMS.values() for state in (0, 1)}
_PHRASES = (  # before the steps done, the next item, and the item's state
    ("The video shows", "The next item is the", "In the image the"),
    ("Done so far", "Now comes the", "I see that the"),
)


def write_reasoning(situation: Situation, concluded: str, rng: Random) -> str:
    """What is done, what comes next, how it looks, what follows: four short sentences ending in `concluded`.

    The first three are true. If `concluded` is not the situation's answer, the last one does not follow from them.
    """
    item = situation.recording.goal.items[situation.done]
    state = situation.recording.states[situation.done]
    opening, following, looking = rng.choice(_PHRASES)
    done = ", ".join(situation.recording.step(index) for index in range(situation.done))
    return (
        f"{opening if done else 'At the start'}: {done or 'nothing'}. {following} {item.name}. "
        f"{looking} {item.name} is {item.states[state]}. So I should {concluded}."
    )


def concluded_action(reasoning: str) -> str | None:
    """The action that the reasoning ends in, as an option's text.

    That is the action of "So I should <action>." None if there is no such sentence, if two of them disagree, or if
    the action is no step of this world.
    """
    found = set(_CONCLUSION.findall(reasoning))
    action = found.pop() if len(found) == 1 else None
    return action if action in _STEPS else None


def write_response(situation: Situation, rng: Random, kind: Kind = "sound") -> str:
    """<think>reasoning</think><answer>an option's text</answer>.

    sound: the reasoning concludes the right action, which is the answer. inconsistent: it concludes one of the three
    wrong options, and the answer is right all the same. wrong: it concludes a wrong option and the answer follows it.
    """
    concluded = situation.answer if kind == "sound" else rng.choice(situation.negatives)
    answer = concluded if kind == "wrong" else situation.answer
    return f"<think>{write_reasoning(situation, concluded, rng)}</think><answer>{answer}</answer>"


def vocabulary_texts() -> list[str]:
    """Texts that hold every word of the world's questions, options and responses: a tokenizer can learn from them."""
    questions = [wording.format(goal=chore.name) for wording in (WITH_VIDEO, WITHOUT_VIDEO) for chore in CHORES]
    reasoning = [
        f"{opening}: {action}. {following} {item.name}. {looking} {item.name} is {item.states[state]}. "
        f"So I should {action}."
        for opening, following, looking in _PHRASES
        for action, (item, state) in _STEPS.items()
    ]
    goals = [f"{CHORES[0].name} and then {CHORES[1].name}", "At the start: nothing."]
    return [*actions(), *questions, *goals, *reasoning]
