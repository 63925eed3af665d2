"""The miniature world: items, chores, goals, rooms, and the questions that can be asked in it.

Every item has two states, and a step flips one item. A chore visits two items in a fixed order; a goal is two chores,
one after the other, so four steps. The question is always which step comes next:

* which item: the clip shows the steps that are done, knowledge of the chores says what follows;
* which verb: the image shows the state the item is in (a full cup is emptied, an empty one filled).

The four options are two items crossed with their two verbs. Neither the image alone (all first states are drawn
evenly, so a flipped item looks like any other) nor the clip alone (it shows only the items already used) decides
between more than half of them. With four options made of two independent facts that is as low as it goes: k options
left open by one medium and 4 / k by the other.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import combinations, permutations
from random import Random

from seedbench_r1.errors import ConfigError
from seedbench_r1.types import DOMAINS, LETTERS, Letter

N_SEEN_ROOMS = 24  # rooms of training and L1; L2 and L3 draw from as many others
N_UNSEEN_ROOMS = 24
WITH_VIDEO = (
    "Considering the progress shown in the video and my current observation shown in the image, "
    "what action should I take next in order to {goal}?"
)
WITHOUT_VIDEO = (
    "Considering my current observation shown in the image, what action should I take next in order to {goal}?"
)
START_EVERY = 7  # one block in so many asks at the very start, without a clip; shares no factor with 3 pairs, 4 domains


@dataclass(frozen=True, slots=True)
class Item:
    """A thing with two states. verbs[s] is what one does to it in state s; it is then in state 1 - s."""

    name: str
    verbs: tuple[str, str]
    states: tuple[str, str]

    def action(self, state: int) -> str:
        """The step that flips this item out of `state`, as an option's text."""
        return f"{self.verbs[state]} the {self.name}"


@dataclass(frozen=True, slots=True)
class Chore:
    """Two items in the order in which the chore uses them."""

    name: str
    domain: str
    items: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Goal:
    """Two chores without a common item. domain is None when they belong to different domains."""

    first: Chore
    second: Chore

    @property
    def text(self) -> str:
        return f"{self.first.name} and then {self.second.name}"

    @property
    def items(self) -> tuple[Item, ...]:
        """The four items in the order of the task."""
        return tuple(ITEMS[name] for name in self.first.items + self.second.items)

    @property
    def domain(self) -> str | None:
        return self.first.domain if self.first.domain == self.second.domain else None


@dataclass(frozen=True, slots=True)
class Room:
    """Names a room; its look is render.room_style. Seen rooms are those of training and L1."""

    index: int
    seen: bool


@dataclass(frozen=True, slots=True)
class Recording:
    """One run through a goal in a room. states are those of the goal's items before the first step."""

    video_id: str
    room: Room
    goal: Goal
    states: tuple[int, int, int, int]
    places: tuple[int, int, int, int]  # place in the room's layout of each item

    def states_after(self, done: int) -> tuple[int, ...]:
        """State of each item after the first `done` steps."""
        return tuple(1 - state if index < done else state for index, state in enumerate(self.states))

    def step(self, index: int) -> str:
        """Text of the index-th step of this recording."""
        return self.goal.items[index].action(self.states[index])


@dataclass(frozen=True, slots=True)
class Situation:
    """A moment of a recording and the four options asked there."""

    recording: Recording
    done: int  # finished steps, 0..3; the next step's item is items[done]
    other: int  # position of the item that the wrong options offer
    letters: str  # a permutation of "ABCD": letters of gold, same item, other item fitting, other item unfitting

    @property
    def question(self) -> str:
        wording = WITH_VIDEO if self.done else WITHOUT_VIDEO
        return wording.format(goal=self.recording.goal.text)

    @property
    def gold(self) -> Letter:
        return LETTERS["ABCD".index(self.letters[0])]

    @property
    def answer(self) -> str:
        return self.recording.step(self.done)

    @property
    def negatives(self) -> tuple[str, str, str]:
        """Right item, wrong verb; then the other item, its fitting verb first."""
        items, states = self.recording.goal.items, self.recording.states_after(self.done)
        other, state = items[self.other], states[self.other]
        return items[self.done].action(1 - states[self.done]), other.action(state), other.action(1 - state)

    @property
    def options(self) -> tuple[str, str, str, str]:
        """Options in the order A to D."""
        texts = dict(zip(self.letters, (self.answer, *self.negatives), strict=True))
        return texts["A"], texts["B"], texts["C"], texts["D"]


# No two items share a verb.
_ITEMS = (  # name, verb and verb back, state and other state
    ("cup", "fill", "empty", "empty", "full"),
    ("basket", "pack", "unpack", "empty", "packed"),
    ("box", "open", "close", "closed", "open"),
    ("book", "read", "shut", "shut", "open"),
    ("umbrella", "unfurl", "furl", "furled", "open"),
    ("lamp", "light", "darken", "dark", "lit"),
    ("radio", "play", "mute", "silent", "playing"),
    ("candle", "ignite", "snuff", "out", "burning"),
    ("flag", "raise", "lower", "down", "up"),
    ("mat", "unroll", "roll", "rolled", "flat"),
    ("blocks", "stack", "scatter", "scattered", "stacked"),
    ("shirt", "fold", "spread", "loose", "folded"),
)
ITEMS = {name: Item(name, (verb, back), (state, other)) for name, verb, back, state, other in _ITEMS}

# Every item is first in one chore and second in another; chores of one domain share no item.
CHORES: tuple[Chore, ...] = (
    Chore("serve breakfast", "Daily life", ("cup", "candle")),
    Chore("tidy the hall", "Daily life", ("shirt", "umbrella")),
    Chore("get ready for bed", "Daily life", ("lamp", "book")),
    Chore("host a reading", "Hobbies", ("book", "lamp")),
    Chore("build a castle", "Hobbies", ("blocks", "flag")),
    Chore("give a concert", "Hobbies", ("radio", "box")),
    Chore("have a picnic", "Recreation", ("basket", "cup")),
    Chore("go to the beach", "Recreation", ("umbrella", "mat")),
    Chore("set up camp", "Recreation", ("flag", "radio")),
    Chore("pack a parcel", "Work", ("box", "shirt")),
    Chore("teach a class", "Work", ("mat", "blocks")),
    Chore("open the shop", "Work", ("candle", "basket")),
)


def seen_goals() -> list[Goal]:
    """Goals of training, L1 and L2: two chores of different domains, no item in common."""
    return [
        Goal(first, second)
        for first, second in permutations(CHORES, 2)
        # No common item: its state after the first chore would decide the second one's verb.
        if first.domain != second.domain and not set(first.items) & set(second.items)
    ]


def unseen_goals(domain: str) -> list[Goal]:
    """Goals of L3: two chores of the same domain, a pairing that training never shows."""
    return [Goal(first, second) for first, second in permutations(CHORES, 2) if first.domain == second.domain == domain]


def actions() -> list[str]:
    """Every step there is, two an item."""
    return [item.action(state) for item in ITEMS.values() for state in (0, 1)]


def draw_situations(split: str, n: int, seed: int) -> list[Situation]:
    """The first n situations of "train", "L1", "L2" or "L3"; a longer draw starts with the shorter one.

    A block is four questions about two items of one goal: each item is gold once in each of its states, and each of A
    to D is gold once. A rule that sees only the texts is therefore right on exactly one in four of a complete block.
    The block's two recordings have opposite states and different rooms. L3 deals four blocks, one of each domain, at
    a time, first recordings first, so that eight questions already cover the domains evenly.

    Raises ConfigError for an unknown split or a negative n.
    """
    if split not in ("train", "L1", "L2", "L3") or n < 0:
        raise ConfigError(f"no {n} situations of split {split!r}: expected train, L1, L2 or L3 and a number >= 0")
    situations: list[Situation] = []
    group = 0
    while len(situations) < n:
        if split == "L3":
            # Interleaved by halves, so that any prefix is spread over the domains.
            blocks = [_block(split, group * len(DOMAINS) + index, seed) for index in range(len(DOMAINS))]
            for half in (slice(0, 2), slice(2, 4)):
                situations += [situation for block in blocks for situation in block[half]]
        else:
            situations += _block(split, group, seed)
        group += 1
    return situations[:n]


def _block(split: str, index: int, seed: int) -> list[Situation]:
    """Four situations: two moments of a recording, and the same two of its opposite in another room."""
    # A block depends on its own number only: longer draws begin like shorter ones.
    rng = Random(f"{seed}:{split}:{index}")
    goals = unseen_goals(DOMAINS[index % len(DOMAINS)]) if split == "L3" else seen_goals()
    goal = rng.choice(goals)
    # Two moments of the task, both with at least one step shown.
    pairs = list(combinations(range(1, 4), 2))
    # At the start the gold item is the first, so only the other one is left to draw.
    pair = (0, rng.randrange(1, 4)) if index % START_EVERY == 0 else pairs[index % len(pairs)]
    states = [rng.randrange(2) for _ in range(4)]
    seen = split in ("train", "L1")
    rooms = rng.sample(range(N_SEEN_ROOMS if seen else N_UNSEEN_ROOMS), 2)
    golds = _letters(split, index, seed)
    situations = []
    for side, room in enumerate(rooms):
        recording = Recording(
            video_id=_video_id(split, 2 * index + side, seed),
            room=Room(room, seen),
            goal=goal,
            states=tuple(state ^ side for state in states),  # type: ignore[arg-type]
            places=tuple(rng.sample(range(4), 4)),  # type: ignore[arg-type]
        )
        for done, other in (pair, pair[::-1]):
            gold = golds.pop(0)
            # The gold letters are dealt evenly; the other three fall as they may.
            rest = rng.sample([letter for letter in "ABCD" if letter != gold], 3)
            situations.append(Situation(recording, done, other, gold + "".join(rest)))
    return situations


def _letters(split: str, index: int, seed: int) -> list[str]:
    """Gold letters of a block. Of two neighbours, one begins with the two letters that the other ends with."""
    letters = Random(f"{seed}:{split}:letters:{index // 2}").sample("ABCD", 4)
    return letters[2:] + letters[:2] if index % 2 else letters


def _video_id(split: str, number: int, seed: int) -> str:
    # In the style of the two sources: EPIC-KITCHENS numbers its recordings, Ego4D names them by UUID.
    digest = hashlib.sha256(f"{seed}:{split}:{number}".encode()).hexdigest()
    return (
        f"P{number % 40 + 1:02d}_{split}_{number:05d}" if split in ("train", "L1") else f"{digest[:8]}-{digest[8:12]}"
    )
