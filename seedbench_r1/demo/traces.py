"""Reasoning in the miniature world's controlled language, and what it concludes."""

from __future__ import annotations

import re
from random import Random
from typing import Literal

import numpy as np

from seedbench_r1.demo.world import CHORES, ITEMS, WITH_VIDEO, WITHOUT_VIDEO, Situation, actions

Kind = Literal["sound", "inconsistent", "wrong"]  # of a response

_CONCLUSION = re.compile(r"\bSo I should ([a-z ]+)\.")
_STEPS = {item.action(state): (item, state) for item in ITEMS.values() for state in (0, 1)}
_PHRASES = (  # before the items in view, the steps done, and the next item
    ("I see:", "The video shows", "The next item is the"),
    ("In view:", "Done so far", "Now comes the"),
)


def write_reasoning(situation: Situation, concluded: str, rng: Random) -> str:
    """What is in view, what is done, what comes next, how it looks, what follows: five sentences ending in `concluded`.

    Items in view are listed as they stand in the room, upper left, upper right, lower left, lower right. All sentences
    but the last are true. If `concluded` is not the situation's answer, the last one does not follow from them.
    """
    recording = situation.recording
    items, states = recording.goal.items, recording.states_after(situation.done)
    seeing, opening, following = rng.choice(_PHRASES)
    view = ", ".join(f"{items[i].name} {items[i].states[states[i]]}" for i in np.argsort(recording.places))
    done = ", ".join(recording.step(index) for index in range(situation.done))
    item, state = items[situation.done], states[situation.done]
    return (
        f"{seeing} {view}. {opening if done else 'At the start'}: {done or 'nothing'}. {following} {item.name}. "
        f"The {item.name} is {item.states[state]}. So I should {concluded}."
    )


def concluded_action(reasoning: str) -> str | None:
    """The action that the reasoning ends in, as an option's text.

    That is the action of "So I should <action>." None if there is no such sentence, if two of them disagree, or if
    the action is no step of this world.
    """
    # A set: the same conclusion twice is no contradiction.
    found = set(_CONCLUSION.findall(reasoning))
    action = found.pop() if len(found) == 1 else None
    return action if action in _STEPS else None


def write_response(situation: Situation, rng: Random, kind: Kind = "sound") -> str:
    """<think>reasoning</think><answer>an option's text</answer>.

    sound: the reasoning concludes the right action, which is the answer. inconsistent: it concludes one of the three
    wrong options, and the answer is right all the same. wrong: it concludes a wrong option and the answer follows it.
    """
    # A wrong conclusion is one of the options, as a model's would be.
    concluded = situation.answer if kind == "sound" else rng.choice(situation.negatives)
    answer = concluded if kind == "wrong" else situation.answer
    return f"<think>{write_reasoning(situation, concluded, rng)}</think><answer>{answer}</answer>"


def vocabulary_texts() -> list[str]:
    """Texts that hold every word of the world's questions, options and responses: to train a tokenizer on."""
    questions = [wording.format(goal=chore.name) for wording in (WITH_VIDEO, WITHOUT_VIDEO) for chore in CHORES]
    # Each word also at the places where punctuation follows, or its token would differ there.
    reasoning = [
        f"{seeing} {item.name} {item.states[state]}, {item.name}. {opening}: {action}, {action}. {following} "
        f"{item.name}. The {item.name} is {item.states[state]}. So I should {action}."
        for seeing, opening, following in _PHRASES
        for action, (item, state) in _STEPS.items()
    ]
    goals = [f"{CHORES[0].name} and then {CHORES[1].name}", "At the start: nothing."]
    return [*actions(), *questions, *goals, *reasoning]
