"""Drawings of the world's items in both states, and of the hand. Pure functions of their arguments."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]

OVERSAMPLING = 4  # drawn so many times larger, then shrunk: smooth edges
INK: Colour = (52, 44, 54)
WHITE: Colour = (250, 248, 240)
GLOW: Colour = (255, 221, 89)
# One outline for all items: no item may be known by its line alone.
LINE = 4.0  # outline, in hundredths of the sprite's side


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Colour of a hue in turns (modulo 1), saturation and value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1) or lighter (factor > 1, towards white)."""
    if factor <= 1.0:
        red, green, blue = (round(channel * factor) for channel in colour)
    else:
        red, green, blue = (round(255 - (255 - channel) * (2.0 - factor)) for channel in colour)
    return red, green, blue


class Pen:
    """Draws on a square canvas in hundredths of its side; (0, 0) is the top left corner, y = 100 the ground."""

    def __init__(self, side: int) -> None:
        # Transparent ink, not transparent white: shrinking mixes in the colour of clear pixels.
        self.image = Image.new("RGBA", (side, side), (*INK, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._unit = side / 100
        self._line = max(1, round(LINE * self._unit))

    def _points(self, xy: Sequence[float]) -> list[tuple[float, float]]:
        return [(xy[i] * self._unit, xy[i + 1] * self._unit) for i in range(0, len(xy), 2)]

    def shape(self, fill: Colour, *xy: float) -> None:
        """Filled polygon with an outline."""
        # The outline is a closed line, since polygon outlines have open corners at this width.
        points = self._points(xy)
        self._draw.polygon(points, fill=fill)
        self._draw.line([*points, points[0], points[1]], fill=INK, width=self._line, joint="curve")

    def box(self, fill: Colour, x0: float, y0: float, x1: float, y1: float, *, radius: float = 3.0) -> None:
        self._draw.rounded_rectangle(
            self._points((x0, y0, x1, y1)), radius * self._unit, fill=fill, outline=INK, width=self._line
        )

    def oval(self, fill: Colour | None, x0: float, y0: float, x1: float, y1: float) -> None:
        self._draw.ellipse(self._points((x0, y0, x1, y1)), fill=fill, outline=INK, width=self._line)

    def glow(self, x: float, y: float, radius: float) -> None:
        """A soft round light, brighter towards its centre."""
        # Eight rings add up to a gradient.
        for step in range(8):
            reach = radius * (1 - step / 8)
            (x0, y0), (x1, y1) = self._points((x - reach, y - reach, x + reach, y + reach))
            halo = Image.new("RGBA", self.image.size, (*GLOW, 0))
            ImageDraw.Draw(halo).ellipse((x0, y0, x1, y1), fill=(*GLOW, 34))
            self.image = Image.alpha_composite(self.image, halo)
        self._draw = ImageDraw.Draw(self.image)

    def capsule(self, fill: Colour, width: float, x0: float, y0: float, x1: float, y1: float) -> None:
        """A thick line with round ends, no outline."""
        self.line(fill, width, x0, y0, x1, y1)
        for x, y in ((x0, y0), (x1, y1)):
            reach = width / 2
            self._draw.ellipse(self._points((x - reach, y - reach, x + reach, y + reach)), fill=fill)

    def line(self, colour: Colour, width: float, *xy: float) -> None:
        self._draw.line(self._points(xy), fill=colour, width=max(1, round(width * self._unit)), joint="curve")

    def arc(
        self, colour: Colour, width: float, box: tuple[float, float, float, float], start: float, end: float
    ) -> None:
        (x0, y0), (x1, y1) = self._points(box)
        self._draw.arc((x0, y0, x1, y1), start, end, fill=colour, width=max(1, round(width * self._unit)))


# Items, one function each, named as in the world. `state` as in world.Item.states.
# `tint` turns the hue a little, from room to room.
def _cup(pen: Pen, state: int, tint: float) -> None:
    # A wider dark arc below a narrower one in colour makes an outlined handle.
    pen.arc(INK, 12, (56, 42, 94, 82), -80, 80)
    pen.arc(hsv(0.58 + tint, 0.55, 0.95), 5, (59.5, 45.5, 90.5, 78.5), -80, 80)
    pen.shape(hsv(0.58 + tint, 0.55, 0.95), 14, 32, 76, 32, 70, 98, 20, 98)
    pen.oval(hsv(0.06, 0.75, 0.50) if state else shade(hsv(0.58 + tint, 0.25, 0.95), 1.6), 14, 22, 76, 42)
    if state:
        # Steam: what is in the cup shows only as a thin strip.
        pen.line(WHITE, 5, 34, 16, 30, 9, 36, 2)
        pen.line(WHITE, 5, 54, 16, 50, 9, 56, 2)


def _basket(pen: Pen, state: int, tint: float) -> None:
    straw = hsv(0.09 + tint, 0.60, 0.80)
    pen.arc(INK, 9, (18, 8, 82, 110), 180, 360)
    pen.arc(straw, 4, (20.5, 10.5, 79.5, 107), 180, 360)
    if state:
        # Fruit above the rim: full at a glance.
        for x, y, hue in ((22, 34, 0.0), (54, 34, 0.30), (38, 26, 0.02)):
            pen.oval(hsv(hue, 0.80, 0.88), x, y, x + 26, y + 26)
    pen.shape(straw, 8, 54, 92, 54, 82, 98, 18, 98)
    for y in (66, 80):
        pen.line(shade(straw, 0.7), 3, 12, y, 88, y)
    for x in (30, 50, 70):
        pen.line(shade(straw, 0.7), 3, x, 57, x, 95)


def _box(pen: Pen, state: int, tint: float) -> None:
    card = hsv(0.10 + tint, 0.38, 0.85)
    if state:
        # The dark inside, then flaps, then the front that covers both.
        pen.shape(shade(card, 0.45), 12, 48, 88, 48, 80, 36, 20, 36)
        pen.shape(shade(card, 1.3), 12, 48, 20, 36, 6, 16, 0, 30)
        pen.shape(shade(card, 1.3), 88, 48, 80, 36, 94, 16, 100, 30)
        pen.box(card, 12, 48, 88, 98, radius=1)
    else:
        pen.shape(shade(card, 1.3), 12, 48, 24, 34, 76, 34, 88, 48)
        pen.box(card, 12, 48, 88, 98, radius=1)
        pen.line(hsv(0.02, 0.65, 0.85), 10, 50, 36, 50, 74)


def _book(pen: Pen, state: int, tint: float) -> None:
    cover = hsv(0.98 + tint, 0.72, 0.78)
    if state:
        pen.shape(cover, 2, 50, 50, 60, 98, 50, 98, 92, 50, 98, 2, 92)
        pen.shape(WHITE, 7, 44, 48, 54, 48, 92, 7, 84)
        pen.shape(WHITE, 93, 44, 52, 54, 52, 92, 93, 84)
        for y in (58, 67, 76):
            pen.line((150, 146, 150), 3, 14, y, 40, y + 6)
            pen.line((150, 146, 150), 3, 86, y, 60, y + 6)
    else:
        pen.box(WHITE, 26, 40, 76, 98, radius=2)
        pen.box(cover, 22, 34, 70, 94, radius=2)
        pen.line(shade(cover, 0.6), 5, 31, 37, 31, 91)
        pen.line(GLOW, 5, 42, 52, 62, 52)
        pen.line(GLOW, 5, 42, 62, 62, 62)


def _umbrella(pen: Pen, state: int, tint: float) -> None:
    cloth = hsv(0.77 + tint, 0.55, 0.80)
    if state:
        pen.line(INK, 6, 50, 40, 50, 92)
        pen.arc(INK, 6, (34, 82, 53, 99), 0, 180)
        # The upper edge from left to right, then the scalloped lower edge back.
        dome = (2, 56, 8, 36, 22, 18, 40, 9, 50, 6, 60, 9, 78, 18, 92, 36, 98, 56)
        scallops = (82, 48, 66, 56, 50, 48, 34, 56, 18, 48)
        pen.shape(cloth, *dome, *scallops)
        pen.shape(shade(cloth, 1.45), 50, 6, 66, 56, 50, 48, 34, 56)
    else:
        pen.line(INK, 6, 50, 4, 50, 14)
        pen.shape(cloth, 50, 10, 62, 44, 57, 74, 43, 74, 38, 44)
        pen.line(shade(cloth, 1.45), 4, 50, 18, 50, 72)
        pen.line(INK, 6, 50, 74, 50, 92)
        pen.arc(INK, 6, (34, 82, 53, 99), 0, 180)


def _lamp(pen: Pen, state: int, tint: float) -> None:
    base = hsv(0.47 + tint, 0.55, 0.60)
    if state:
        # Light lies below the lamp: drawn first.
        pen.glow(50, 34, 50)
    pen.line(INK, 9, 50, 48, 50, 90)
    pen.box(base, 28, 88, 72, 98)
    pen.shape((255, 238, 140) if state else (122, 116, 120), 34, 12, 66, 12, 82, 52, 18, 52)


def _radio(pen: Pen, state: int, tint: float) -> None:
    body = hsv(0.52 + tint, 0.50, 0.62)
    pen.line(INK, 4, 70, 48, 88, 12)
    pen.box(body, 6, 46, 94, 98, radius=8)
    pen.oval(shade(body, 0.5), 12, 54, 50, 92)
    pen.oval((140, 136, 140), 23, 65, 39, 81)
    pen.box((120, 255, 130) if state else (52, 60, 58), 56, 56, 88, 70)
    pen.oval(WHITE, 66, 76, 80, 90)
    if state:
        # Notes above the radio: the lamp on its front is small.
        for x, y in ((14, 12), (40, 4)):
            pen.line(INK, 4, x + 12, y + 28, x + 12, y, x + 22, y + 6)
            pen.oval((255, 120, 60), x, y + 22, x + 14, y + 34)


def _candle(pen: Pen, state: int, tint: float) -> None:
    if state:
        pen.glow(50, 26, 40)
    pen.line(INK, 4, 50, 40, 50, 50)
    if state:
        pen.shape((255, 140, 40), 50, 4, 60, 24, 58, 36, 50, 42, 42, 36, 40, 24)
        pen.shape((255, 232, 120), 50, 18, 55, 30, 50, 38, 45, 30)
    else:
        pen.line((170, 166, 172), 4, 50, 36, 46, 28, 53, 20, 49, 12)
    pen.box(WHITE, 38, 48, 62, 92)
    pen.shape(hsv(0.12 + tint, 0.70, 0.75), 18, 86, 82, 86, 72, 98, 28, 98)


def _flag(pen: Pen, state: int, tint: float) -> None:
    cloth = hsv(0.36 + tint, 0.70, 0.65)
    pen.line(INK, 9, 24, 4, 24, 96)
    pen.line((205, 200, 196), 4, 24, 5, 24, 94)
    pen.box((120, 110, 112), 8, 90, 42, 98)
    pen.oval(GLOW, 18, 0, 30, 12)
    # Up or down the same pole.
    top = 12 if state else 60
    height = 36 if state else 28
    pen.shape(cloth, 27, top, 60, top + 5, 96, top, 96, top + height, 60, top + height + 5, 27, top + height)
    pen.oval(WHITE, 52, top + height / 2 - 6, 70, top + height / 2 + 11)


def _mat(pen: Pen, state: int, tint: float) -> None:
    wool = hsv(0.92 + tint, 0.50, 0.92)
    if state:
        pen.shape(wool, 22, 74, 98, 74, 80, 98, 2, 98)
        pen.line(WHITE, 6, 35, 76, 17, 96)
        pen.line(WHITE, 6, 53, 76, 35, 96)
        pen.line(WHITE, 6, 71, 76, 53, 96)
    else:
        pen.box(wool, 30, 58, 94, 98, radius=18)
        pen.oval(shade(wool, 0.8), 10, 58, 50, 98)
        pen.oval(wool, 18, 66, 42, 90)
        pen.oval(INK, 27, 75, 33, 81)
        pen.line(WHITE, 6, 64, 61, 64, 95)


def _blocks(pen: Pen, state: int, tint: float) -> None:
    # The tint turns all three, so they stay as different as they are.
    red, blue, yellow = hsv(0.0 + tint, 0.70, 0.90), hsv(0.60 + tint, 0.65, 0.85), hsv(0.15 + tint, 0.75, 0.95)
    if state:
        pen.box(blue, 33, 66, 67, 98)
        pen.box(yellow, 33, 36, 67, 67)
        pen.box(red, 33, 6, 67, 37)
    else:
        pen.box(blue, 34, 68, 64, 98)
        pen.box(yellow, 68, 68, 98, 98)
        pen.shape(red, 15, 60, 32, 78, 17, 98, 1, 80)


def _shirt(pen: Pen, state: int, tint: float) -> None:
    cloth = hsv(0.66 + tint, 0.50, 0.80)
    if state:
        pen.box(cloth, 14, 62, 86, 98, radius=6)
        pen.line(shade(cloth, 0.65), 4, 18, 80, 82, 80)
        pen.shape(WHITE, 36, 62, 64, 62, 50, 76)
    else:
        pen.shape(cloth, 34, 8, 66, 8, 98, 30, 86, 52, 74, 46, 74, 98, 26, 98, 26, 46, 14, 52, 2, 30)
        pen.shape(WHITE, 36, 8, 64, 8, 50, 26)
        for y in (40, 58, 76):
            pen.oval(WHITE, 46, y, 54, y + 8)


_ITEMS = (_cup, _basket, _box, _book, _umbrella, _lamp, _radio, _candle, _flag, _mat, _blocks, _shirt)
_DRAWINGS = {draw.__name__.removeprefix("_"): draw for draw in _ITEMS}


# Every frame of a clip shows the same few sprites.
@lru_cache(maxsize=2048)
def item_sprite(name: str, state: int, tint: float, side: int) -> Image.Image:
    """RGBA picture of an item, side x side pixels, standing on its lower edge. tint turns its hues. Do not modify."""
    pen = Pen(side * OVERSAMPLING)
    _DRAWINGS[name](pen, state, tint)
    return pen.image.resize((side, side), Image.Resampling.BOX)


@lru_cache(maxsize=64)
def hand_sprite(sleeve: Colour, skin: Colour, side: int) -> Image.Image:
    """RGBA picture of a forearm from the lower right, its fingertips near the upper left corner. Do not modify."""
    pen = Pen(side * OVERSAMPLING)
    limbs = (  # width, then both ends: index finger, three bent fingers, thumb, palm, wrist
        (11, 12, 12, 46, 44),
        (11, 34, 26, 52, 42),
        (11, 46, 24, 60, 42),
        (11, 57, 27, 68, 44),
        (12, 24, 58, 48, 60),
        (32, 54, 52, 60, 56),
        (26, 60, 60, 80, 80),
    )
    for width, *ends in limbs:
        # All outlines first, so that limbs melt into one hand.
        pen.capsule(INK, width + 2 * LINE, *ends)
    for width, *ends in limbs:
        pen.capsule(skin, width, *ends)
    for x, y in ((45, 38), (55, 38)):
        pen.line(shade(skin, 0.75), 3, x - 4, y - 8, x + 3, y)
    pen.shape(sleeve, 84, 60, 60, 84, 76, 102, 102, 102, 102, 76)
    # The cuff.
    pen.shape(WHITE, 80, 56, 87, 63, 63, 87, 56, 80)
    return pen.image.resize((side, side), Image.Resampling.BOX)
