"""Pictures of the miniature world: rooms, the wide view of the image, the close view of the clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from seedbench_r1.demo.sprites import GLOW, INK, OVERSAMPLING, Colour, hand_sprite, hsv, item_sprite, shade
from seedbench_r1.demo.world import Recording, Room, Situation
from seedbench_r1.errors import ConfigError
from seedbench_r1.media.decode import Pixels

# Fractions, so that every frame size shows the same room.
Place = tuple[float, float]  # where an item stands, as fractions of width and height


@dataclass(frozen=True, slots=True)
class ClipFormat:
    """Size and timing of the pictures. All clips are `seconds` long, so that length does not say how much was done."""

    frame_size: tuple[int, int] = (224, 168)  # width, height of frames and of the image; even
    fps: int = 12
    seconds: float = 4.0

    def __post_init__(self) -> None:
        if any(side < 28 or side % 2 for side in self.frame_size):
            raise ConfigError(f"frame_size is {self.frame_size}, expected two even numbers of at least 28.")
        if self.n_frames < 6:
            raise ConfigError(f"{self.seconds} s at {self.fps} frames a second leave no 2 frames for each of 3 steps.")

    @property
    def n_frames(self) -> int:
        return round(self.seconds * self.fps)

    def start(self, step: int, done: int) -> int:
        """The frame with which the step-th of `done` equally long steps begins; for step = done the clip's end."""
        return round(step * self.n_frames / done)


@dataclass(frozen=True, slots=True)
class Layout:
    """Furniture and the four places on it: upper left, upper right, lower left, lower right."""

    furniture: tuple[tuple[str, float, float, float], ...]  # kind, left and right edge, height of its top
    places: tuple[Place, Place, Place, Place]


SEEN_LAYOUTS = (
    Layout(
        # Upper places are above the middle of the picture, lower ones below, in every room.
        (("shelf", 0.06, 0.94, 0.45), ("table", 0.08, 0.92, 0.88)),
        ((0.26, 0.45), (0.74, 0.45), (0.27, 0.88), (0.73, 0.88)),
    ),
    Layout(
        (("shelf", 0.05, 0.46, 0.43), ("shelf", 0.56, 0.95, 0.49), ("table", 0.10, 0.90, 0.90)),
        ((0.25, 0.43), (0.75, 0.49), (0.30, 0.90), (0.70, 0.90)),
    ),
    Layout(
        (("shelf", 0.10, 0.90, 0.46), ("stool", 0.08, 0.42, 0.86), ("stool", 0.58, 0.92, 0.91)),
        ((0.29, 0.46), (0.71, 0.46), (0.25, 0.86), (0.75, 0.91)),
    ),
    Layout(
        (
            ("cabinet", 0.04, 0.48, 0.87),
            ("shelf", 0.04, 0.48, 0.44),
            ("shelf", 0.56, 0.96, 0.44),
            ("stool", 0.57, 0.95, 0.9),
        ),
        ((0.26, 0.44), (0.76, 0.44), (0.26, 0.87), (0.76, 0.90)),
    ),
)
UNSEEN_LAYOUTS = (
    Layout(
        (("shelf", 0.05, 0.45, 0.49), ("shelf", 0.55, 0.95, 0.43), ("cabinet", 0.08, 0.92, 0.89)),
        ((0.25, 0.49), (0.75, 0.43), (0.29, 0.89), (0.71, 0.89)),
    ),
    Layout(
        (("shelf", 0.05, 0.95, 0.44), ("cabinet", 0.05, 0.45, 0.86), ("cabinet", 0.55, 0.95, 0.92)),
        ((0.28, 0.44), (0.72, 0.44), (0.25, 0.86), (0.75, 0.92)),
    ),
    Layout(
        (
            ("stool", 0.06, 0.44, 0.91),
            ("shelf", 0.04, 0.50, 0.46),
            ("shelf", 0.52, 0.96, 0.46),
            ("table", 0.52, 0.96, 0.87),
        ),
        ((0.27, 0.46), (0.74, 0.46), (0.25, 0.91), (0.74, 0.87)),
    ),
)
# Hues in turns; seen and unseen rooms share none.
SEEN_WALLS, UNSEEN_WALLS = (0.10, 0.15, 0.52, 0.60), (0.33, 0.76, 0.88, 0.99)
SEEN_PATTERNS, UNSEEN_PATTERNS = ("plain", "stripes", "panels"), ("dots", "checks")
SEEN_TINTS, UNSEEN_TINTS = (-0.02, 0.0, 0.02), (-0.05, 0.05)
SEEN_WOODS, UNSEEN_WOODS = (0.07, 0.09), (0.03, 0.56)
SEEN_PICTURES, UNSEEN_PICTURES = ("window", "clock"), ("painting",)
SKINS: tuple[Colour, ...] = ((247, 208, 170), (214, 160, 116), (150, 100, 70), (104, 68, 50))


@dataclass(frozen=True, slots=True)
class RoomStyle:
    """Everything that a room looks like."""

    wall: Colour
    pattern: str
    floor: Colour
    wood: Colour
    layout: Layout
    tint: float
    sleeve: Colour
    skin: Colour
    picture: str  # what hangs on the wall


def room_style(room: Room) -> RoomStyle:
    """The look of a room: a function of its number, from other colours, patterns and layouts if it is unseen."""
    # The look depends on the room alone: all questions of a room show the same one.
    rng = Random(f"room:{room.index}:{room.seen}")
    seen = room.seen
    wood_hue = rng.choice(SEEN_WOODS if seen else UNSEEN_WOODS)
    return RoomStyle(
        wall=hsv(rng.choice(SEEN_WALLS if seen else UNSEEN_WALLS), rng.uniform(0.12, 0.24), rng.uniform(0.88, 0.97)),
        pattern=rng.choice(SEEN_PATTERNS if seen else UNSEEN_PATTERNS),
        floor=hsv(wood_hue + rng.uniform(-0.02, 0.02), rng.uniform(0.25, 0.4), rng.uniform(0.55, 0.7)),
        wood=hsv(wood_hue, rng.uniform(0.40, 0.55), rng.uniform(0.55, 0.75)),
        layout=rng.choice(SEEN_LAYOUTS if seen else UNSEEN_LAYOUTS),
        tint=rng.choice(SEEN_TINTS if seen else UNSEEN_TINTS),
        sleeve=hsv(rng.random(), 0.55, 0.75),
        skin=rng.choice(SKINS),
        picture=rng.choice(SEEN_PICTURES if seen else UNSEEN_PICTURES),
    )


def render_image(situation: Situation, frame_size: tuple[int, int]) -> Pixels:
    """The current view: the whole room, all four items in their present states; (height, width, 3) uint8."""
    recording = situation.recording
    style = room_style(recording.room)
    # The cached background is shared.
    image = _wide_background(recording.room, frame_size).copy()
    width, height = frame_size
    # Two by two items, with some wall between them.
    side = round(min(0.40 * width, 0.37 * height))
    rng = Random(f"{recording.video_id}:view")  # no two recordings put things down in quite the same spot
    states = recording.states_after(situation.done)
    for item, state, place in zip(recording.goal.items, states, recording.places, strict=True):
        x, y = style.layout.places[place]
        x += rng.uniform(-0.025, 0.025)
        sprite = item_sprite(item.name, state, style.tint, side)
        # A little below the surface, or items would seem to float.
        left, top = round(x * width - side / 2), round(y * height) - side + round(side * 0.03)
        image.paste(sprite, (left, top), sprite)
    return np.asarray(image)


def render_clip(situation: Situation, clip: ClipFormat) -> Iterator[Pixels]:
    """The steps done so far, one after another, each in close view; frames of (height, width, 3) uint8."""
    for step in range(situation.done):
        n_frames = clip.start(step + 1, situation.done) - clip.start(step, situation.done)
        yield from render_step(situation.recording, step, n_frames, clip.frame_size)


def render_step(recording: Recording, step: int, n_frames: int, frame_size: tuple[int, int]) -> Iterator[Pixels]:
    """n_frames frames: a hand comes, flips the item's state half-way, and leaves."""
    style = room_style(recording.room)
    width, height = frame_size
    background = _close_background(recording.room, frame_size)
    side = round(0.66 * min(width, height))
    item, state = recording.goal.items[step], recording.states[step]
    # Both states are drawn once; the frames only mix them.
    sprites = [item_sprite(item.name, shown, style.tint, side) for shown in (state, 1 - state)]
    hand = hand_sprite(style.sleeve, style.skin, round(0.8 * side))
    # Of the step, not of the question: questions of one recording show the same clip of it.
    rng = Random(f"{recording.video_id}:{step}")
    left = round(width * rng.uniform(0.40, 0.50) - side / 2)
    top = round(height * rng.uniform(0.86, 0.90)) - side
    for index in range(n_frames):
        # Middle of the frame, as a fraction of the step; the same motion at any rate.
        time = (index + 0.5) / n_frames
        image = background.copy()
        _paste(image, sprites[0], (left, top), 1.0 - _ramp(time, 0.52, 0.60))
        _paste(image, sprites[1], (left, top), _ramp(time, 0.44, 0.52))
        # The flip is marked by more than the sprite: at few frames a second the moment may fall between two.
        if 0.46 < time < 0.66:
            _draw_sparks(image, (left + side / 2, top + side / 2), side * (0.50 + 0.5 * (time - 0.46)))
        reach = _ramp(time, 0.08, 0.40) * (1.0 - _ramp(time, 0.62, 0.92))
        # Smoothstep: the hand starts and stops without a jerk.
        shown = reach * reach * (3 - 2 * reach)
        target = (left + side * 0.62, top + side * 0.45)
        x = target[0] + (1 - shown) * (width - target[0])
        y = target[1] + (1 - shown) * (height - target[1])
        _paste(image, hand, (round(x), round(y)), 1.0)
        yield np.asarray(image)


def _ramp(time: float, start: float, stop: float) -> float:
    return min(1.0, max(0.0, (time - start) / (stop - start)))


def _paste(image: Image.Image, sprite: Image.Image, corner: tuple[int, int], opacity: float) -> None:
    if opacity <= 0.0:
        return
    # Opacity scales the sprite's own alpha, so soft edges stay soft.
    mask = sprite.getchannel("A")
    image.paste(sprite, corner, mask if opacity >= 1.0 else mask.point(lambda alpha: round(alpha * opacity)))


def _draw_sparks(image: Image.Image, centre: tuple[float, float], radius: float) -> None:
    draw = ImageDraw.Draw(image)
    for angle in np.linspace(0, 2 * np.pi, 10, endpoint=False):
        direction = np.array([np.cos(angle), np.sin(angle)])
        inner, outer = (tuple(np.array(centre) + direction * radius * scale) for scale in (1.0, 1.18))
        draw.line([inner, outer], fill=GLOW, width=max(1, round(radius / 16)))


class _Brush:
    """Draws rectangles and lines in fractions of the frame on an oversampled canvas."""

    def __init__(self, frame_size: tuple[int, int], colour: Colour) -> None:
        self.width, self.height = (side * OVERSAMPLING for side in frame_size)
        self.frame_size = frame_size
        self.image = Image.new("RGB", (self.width, self.height), colour)
        self.draw = ImageDraw.Draw(self.image)
        # In pixels of the enlarged canvas: shrinking makes it half a pixel at least.
        self.stroke = max(2, round(0.012 * min(self.width, self.height)))

    def box(self, fill: Colour, x0: float, y0: float, x1: float, y1: float, *, outline: Colour | None = INK) -> None:
        corners = (x0 * self.width, y0 * self.height, x1 * self.width, y1 * self.height)
        self.draw.rectangle(corners, fill=fill, outline=outline, width=self.stroke)

    def line(self, colour: Colour, x0: float, y0: float, x1: float, y1: float) -> None:
        ends = (x0 * self.width, y0 * self.height, x1 * self.width, y1 * self.height)
        self.draw.line(ends, fill=colour, width=self.stroke)

    def dot(self, colour: Colour, x: float, y: float, radius: float) -> None:
        x, y, reach = x * self.width, y * self.height, radius * self.height
        self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    def finish(self) -> Image.Image:
        return self.image.resize(self.frame_size, Image.Resampling.BOX)


@lru_cache(maxsize=128)
def _wide_background(room: Room, frame_size: tuple[int, int]) -> Image.Image:
    style = room_style(room)
    brush = _Brush(frame_size, style.wall)
    _draw_pattern(brush, style, 0.72, cells=12)
    _draw_picture(brush, style.picture)
    brush.box(style.floor, 0, 0.72, 1, 1.02, outline=None)
    # Floor boards run towards a vanishing point above the middle.
    for x in range(-2, 12):
        brush.line(shade(style.floor, 0.88), x / 8, 1.0, 0.5 + (x / 8 - 0.5) * 0.7, 0.72)
    brush.box(shade(style.wall, 1.6), -0.02, 0.69, 1.02, 0.72, outline=shade(style.wall, 0.7))
    for kind, left, right, top in style.layout.furniture:
        _draw_furniture(brush, style.wood, kind, (left, right, top))
    return brush.finish()


@lru_cache(maxsize=128)
def _close_background(room: Room, frame_size: tuple[int, int]) -> Image.Image:
    style = room_style(room)
    brush = _Brush(frame_size, style.wall)
    _draw_pattern(brush, style, 0.66, cells=6)
    brush.box(style.wood, -0.02, 0.66, 1.02, 1.02, outline=shade(style.wood, 0.6))
    for y in (0.74, 0.83, 0.93):
        brush.line(shade(style.wood, 0.88), 0, y, 1, y)
    return brush.finish()


def _draw_pattern(brush: _Brush, style: RoomStyle, bottom: float, cells: int) -> None:
    tone = shade(style.wall, 0.93)
    # As many as make square cells.
    rows = round(cells * bottom * brush.height / brush.width) + 1
    for x in range(cells):
        if style.pattern == "stripes":
            brush.box(tone, x / cells, 0, (x + 0.5) / cells, bottom, outline=None)
        elif style.pattern == "panels":
            brush.line(tone, x / cells, 0, x / cells, bottom)
        for y in range(rows):
            if style.pattern == "dots":
                brush.dot(tone, (x + 0.5 * (y % 2) + 0.25) / cells, (y + 0.5) / rows * bottom, 0.12 / rows)
            elif style.pattern == "checks" and (x + y) % 2:
                brush.box(tone, x / cells, y / rows * bottom, (x + 1) / cells, (y + 1) / rows * bottom, outline=None)


def _draw_picture(brush: _Brush, kind: str) -> None:
    """What hangs in the middle of the upper wall, between the items."""
    if kind == "clock":
        brush.dot(INK, 0.5, 0.16, 0.105)
        brush.dot((250, 248, 240), 0.5, 0.16, 0.09)
        brush.line(INK, 0.5, 0.16, 0.5, 0.09)
        brush.line(INK, 0.5, 0.16, 0.54, 0.18)
        return
    sky = (196, 228, 246) if kind == "window" else (250, 206, 150)
    brush.box(sky, 0.40, 0.05, 0.60, 0.30, outline=shade(INK, 1.6))
    if kind == "window":
        brush.line((250, 250, 250), 0.5, 0.062, 0.5, 0.288)
        brush.line((250, 250, 250), 0.41, 0.175, 0.59, 0.175)
        return
    brush.dot((240, 120, 80), 0.54, 0.13, 0.03)
    brush.box((110, 150, 110), 0.41, 0.21, 0.59, 0.288, outline=None)


def _draw_furniture(brush: _Brush, wood: Colour, kind: str, edges: tuple[float, float, float]) -> None:
    left, right, top = edges
    dark = shade(wood, 0.8)
    if kind == "shelf":
        for x in (left + 0.05, right - 0.08):
            brush.box(dark, x, top, x + 0.03, top + 0.07)
        brush.box(wood, left, top, right, top + 0.035)
        return
    if kind == "cabinet":
        brush.box(dark, left + 0.02, top, right - 0.02, 1.02)
        middle = (left + right) / 2
        brush.line(INK, middle, top, middle, 1.0)
    else:
        for x in (left + 0.03, right - 0.07):
            brush.box(dark, x, top, x + 0.04, 1.02)
    brush.box(wood, left, top, right, top + 0.05)
