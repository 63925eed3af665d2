"""The miniature world's questions need both media and cannot be guessed from their texts."""

import dataclasses
from collections import Counter, defaultdict
from colorsys import rgb_to_hsv
from itertools import product
from random import Random

import numpy as np
import pytest

from seedbench_r1.demo.exact_judge import ExactJudge
from seedbench_r1.demo.render import ClipFormat, render_clip, render_image, room_style
from seedbench_r1.demo.sprites import item_sprite
from seedbench_r1.demo.traces import concluded_action, write_reasoning, write_response
from seedbench_r1.demo.world import (
    CHORES,
    ITEMS,
    N_SEEN_ROOMS,
    N_UNSEEN_ROOMS,
    Goal,
    Recording,
    Room,
    Situation,
    actions,
    draw_situations,
    seen_goals,
    unseen_goals,
)
from seedbench_r1.judges.run import JudgeCase
from seedbench_r1.parsing import parse_response
from seedbench_r1.types import DOMAINS

TINY = {"frame_size": (56, 56), "fps": 4, "seconds": 2}


def with_states(recording, states):
    return dataclasses.replace(recording, states=tuple(states))


def distance(a, b):
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# --- one medium is not enough ----------------------------------------------------------------------------------------


def test_the_image_shows_states_only_and_not_what_was_done():
    for situation in draw_situations("L2", 20, 3):
        fresh = with_states(situation.recording, situation.recording.states_after(situation.done))
        untouched = dataclasses.replace(situation, recording=fresh, done=0)
        assert np.array_equal(render_image(situation, (56, 56)), render_image(untouched, (56, 56)))


def test_the_clip_shows_nothing_of_the_items_not_yet_used():
    clip = ClipFormat(**TINY)
    for situation in draw_situations("L1", 20, 3):
        states = situation.recording.states
        later = [1 - state if index >= situation.done else state for index, state in enumerate(states)]
        changed = dataclasses.replace(situation, recording=with_states(situation.recording, later))
        assert np.array_equal([*render_clip(situation, clip)], [*render_clip(changed, clip)])


def test_a_hand_worked_recording():
    goal = Goal(CHORES[2], CHORES[7])  # get ready for bed: lamp, book; go to the beach: umbrella, mat
    recording = Recording("r", Room(0, True), goal, states=(0, 1, 1, 0), places=(0, 1, 2, 3))
    situation = Situation(recording, done=2, other=1, letters="CADB")
    assert goal.text == "get ready for bed and then go to the beach"
    assert [recording.step(index) for index in range(4)] == [
        "light the lamp",
        "shut the book",
        "furl the umbrella",
        "unroll the mat",
    ]
    assert recording.states_after(2) == (1, 0, 1, 0)
    assert situation.gold == "C"
    assert situation.options == ("unfurl the umbrella", "shut the book", "furl the umbrella", "read the book")
    assert write_reasoning(situation, situation.answer, Random(1)) == (
        "I see: lamp lit, book shut, umbrella open, mat rolled. The video shows: light the lamp, shut the book. "
        "The next item is the umbrella. The umbrella is open. So I should furl the umbrella."
    )
    assert write_reasoning(situation, "shut the book", Random(1)) == (
        "I see: lamp lit, book shut, umbrella open, mat rolled. The video shows: light the lamp, shut the book. "
        "The next item is the umbrella. The umbrella is open. So I should shut the book."
    )


def test_responses_of_each_kind():
    for situation in draw_situations("train", 40, 3):
        responses = {kind: write_response(situation, Random(5), kind) for kind in ("sound", "inconsistent", "wrong")}
        parsed = {kind: parse_response(text, situation.options) for kind, text in responses.items()}
        assert all(found.format_ok for found in parsed.values())
        assert [parsed[kind].answer == situation.gold for kind in responses] == [True, True, False]
        concluded = {kind: concluded_action(found.reasoning) for kind, found in parsed.items()}
        assert concluded["sound"] == situation.answer
        assert concluded["inconsistent"] == concluded["wrong"] == parsed["wrong"].answer_text
        assert concluded["wrong"] in situation.negatives


@pytest.mark.parametrize(
    ("reasoning", "answer", "consistent"),
    [
        ("So I should furl the umbrella.", "C", True),
        ("So I should read the book.", "C", False),
        ("So I should furl the umbrella. So I should read the book.", "C", False),
        ("So I should roll the mat.", "C", False),
        ("The next item is the umbrella.", "C", False),
    ],
)
def test_the_exact_judge(reasoning, answer, consistent):
    options = ("unfurl the umbrella", "shut the book", "furl the umbrella", "read the book")
    ((question_id, verdict),) = ExactJudge().verdicts([JudgeCase("L1/0", "?", options, reasoning, answer)])
    assert (question_id, verdict.consistent) == ("L1/0", consistent)


def test_clips_are_equally_long_and_show_each_step_for_its_share():
    clip = ClipFormat(**TINY)
    by_done = {s.done: s for s in draw_situations("train", 112, 3) if s.done}
    assert {done: len([*render_clip(s, clip)]) for done, s in by_done.items()} == dict.fromkeys((1, 2, 3), 8)
    assert [[clip.start(step, done) for step in range(done + 1)] for done in (1, 2, 3)] == [
        [0, 8],
        [0, 4, 8],
        [0, 3, 5, 8],
    ]


def test_no_two_items_share_a_verb():
    verbs = [verb for item in ITEMS.values() for verb in item.verbs]
    assert len(set(verbs)) == len(verbs) == 24


def test_lighting_the_lamp_is_seen_in_the_clip_and_afterwards_in_the_image():
    recording = Recording("r", Room(0, True), Goal(CHORES[2], CHORES[7]), (0, 1, 1, 0), (0, 1, 2, 3))
    before, after = (Situation(recording, done, 2, "ABCD") for done in (0, 1))

    def lit_pixels(picture):
        return int((picture == (255, 238, 140)).all(axis=-1).sum())  # the shade of a lamp that is on

    frames = list(render_clip(after, ClipFormat()))
    assert [lit_pixels(frame) for frame in frames[:8]] == [0] * 8
    assert min(lit_pixels(frame) for frame in frames[-8:]) > 300
    assert lit_pixels(render_image(before, (224, 168))) == 0
    assert lit_pixels(render_image(after, (224, 168))) > 100


@pytest.mark.parametrize("split", ["train", "L1", "L2", "L3"])
def test_one_medium_leaves_exactly_two_options(split):
    for situation in draw_situations(split, 64, 5):
        goal, states = situation.recording.goal, situation.recording.states_after(situation.done)
        by_clip = {goal.items[situation.done].action(state) for state in (0, 1)}
        by_image = {item.action(state) for item, state in zip(goal.items, states, strict=True)}
        assert len(set(situation.options)) == 4
        assert len(by_clip & set(situation.options)) == 2
        assert len(by_image & set(situation.options)) == 2
        assert by_clip & by_image == {situation.answer}


def test_first_states_are_even_so_that_a_flipped_item_looks_like_any_other():
    states = Counter((s.done, bit) for s in draw_situations("train", 1120, 0) for bit in [s.recording.states[s.done]])
    for done in range(4):
        assert states[done, 0] == states[done, 1]


# --- not guessable from the texts -------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "L1", "L2", "L3"])
def test_every_letter_and_every_option_text_is_gold_exactly_as_often_as_chance(split):
    situations = draw_situations(split, 960, 0)
    assert Counter(situation.gold for situation in situations) == dict.fromkeys("ABCD", 240)
    shown, gold = Counter(), Counter()
    for situation in situations:
        goal = situation.recording.goal.text
        shown.update((goal, option) for option in situation.options)
        gold[goal, situation.answer] += 1
    assert {4 * gold[key] == count for key, count in shown.items()} == {True}
    assert {option for _, option in shown} == set(actions())


@pytest.mark.parametrize("rule", [len, str, lambda option: option.count(" "), lambda option: -len(option)])
def test_a_rule_on_the_texts_is_right_on_one_in_four(rule):
    share = 0.0
    situations = draw_situations("L1", 400, 0)
    for situation in situations:
        best = max(map(rule, situation.options))
        picked = [option for option in situation.options if rule(option) == best]
        share += (situation.answer in picked) / len(picked)
    assert share == pytest.approx(len(situations) / 4)


def test_a_classifier_of_text_counts_stays_near_chance():
    """Gold share of an option, given goal and wording, learned on 6,000 rows; only rows at the start give any hint."""
    shown, gold = defaultdict(int), defaultdict(int)
    for situation in draw_situations("train", 6000, 0):
        for option in situation.options:
            shown[situation.question, option] += 1
        gold[situation.question, situation.answer] += 1
    correct = {True: [], False: []}
    for situation in draw_situations("L1", 2800, 1):
        scores = [gold[situation.question, o] / max(1, shown[situation.question, o]) for o in situation.options]
        started = 0 not in (situation.done, situation.other)
        correct[started].append(situation.options[int(np.argmax(scores))] == situation.answer)
    assert np.mean(correct[True]) == pytest.approx(0.25, abs=0.03)  # 2,400 rows: three standard errors are 0.027
    assert np.mean(correct[True] + correct[False]) < 0.31


# --- levels -----------------------------------------------------------------------------------------------------


def test_every_item_is_first_in_one_chore_and_second_in_another():
    assert sorted(chore.items[0] for chore in CHORES) == sorted(ITEMS)
    assert sorted(chore.items[1] for chore in CHORES) == sorted(ITEMS)
    assert Counter(chore.domain for chore in CHORES) == dict.fromkeys(DOMAINS, 3)


def test_l3_goals_are_unseen_and_made_of_seen_chores():
    unseen = {goal.text for domain in DOMAINS for goal in unseen_goals(domain)}
    seen = seen_goals()
    assert len(unseen) == 24
    assert not unseen & {goal.text for goal in seen}
    assert {goal.first for goal in seen} == {goal.second for goal in seen} == set(CHORES)
    for situation in draw_situations("L3", 64, 0):
        assert situation.recording.goal.text in unseen
        assert len({item.name for item in situation.recording.goal.items}) == 4
    for split in ("train", "L1", "L2"):
        assert not unseen & {situation.recording.goal.text for situation in draw_situations(split, 400, 0)}


def test_l2_and_l3_rooms_share_no_look_with_those_of_training():
    for split in ("train", "L1", "L2", "L3"):
        assert {s.recording.room.seen for s in draw_situations(split, 64, 0)} == {split in ("train", "L1")}
    seen = [room_style(Room(index, True)) for index in range(N_SEEN_ROOMS)]
    unseen = [room_style(Room(index, False)) for index in range(N_UNSEEN_ROOMS)]
    hues = [[rgb_to_hsv(*style.wall)[0] for style in styles] for styles in (seen, unseen)]
    assert min(min(abs(a - b), 1 - abs(a - b)) for a, b in product(*hues)) > 0.05
    for part in ("pattern", "layout", "tint", "picture"):
        assert not {getattr(style, part) for style in seen} & {getattr(style, part) for style in unseen}


def test_a_longer_draw_starts_with_the_shorter_one_and_starts_come_in_every_domain():
    assert draw_situations("L3", 40, 0)[:13] == draw_situations("L3", 13, 0)
    starts = {s.recording.goal.domain for s in draw_situations("L3", 448, 0) if s.done == 0}
    assert starts == set(DOMAINS)


def test_items_and_states_look_different_even_when_small():
    """At 20 pixels, items of a 56-pixel frame: any two pictures differ by more than the tints of one."""
    tints = (-0.05, -0.02, 0.0, 0.02, 0.05)
    looks = {key: [np.asarray(item_sprite(*key, tint, 20)) for tint in tints] for key in product(ITEMS, (0, 1))}
    for key, pictures in looks.items():
        nearest = min(distance(pictures[2], other[2]) for name, other in looks.items() if name != key)
        assert nearest > max(distance(pictures[2], picture) for picture in pictures), key
