"""Changes of bytes and of JSON, as disks, networks, other tools and enemies make them."""

from __future__ import annotations

import copy
import json
import random
import re
from collections.abc import Callable, Sequence

NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, (1 << 63) - 1, (1 << 64) - 1)
_NAME = re.compile(rb"[A-Za-z][A-Za-z0-9 ]{3}")  # of boxes, chunks and the like
DEEP = "@deep@"  # stands for lists in lists, which json.dumps cannot write
HUGE = "@huge@"  # for a number of many digits


def mutated(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes, most often one."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTE_CHANGES)(rng, data, others) if data else rng.randbytes(16)
    return data


def _place(rng: random.Random, data: bytes) -> int:
    # Headers say more than pictures: every second change is near an end.
    near = min(len(data), 512)
    return rng.choice((rng.randrange(len(data)), rng.randrange(near), len(data) - 1 - rng.randrange(near)))


def _flip(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[_place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _run(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, n = _place(rng, data), rng.choice((1, 4, 16, 64, 1024))
    filling = rng.choice((b"\0" * n, b"\xff" * n, rng.randbytes(n)))
    return data[:at] + filling[: len(data) - at] + data[at + n :]


def _number(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    size = rng.choice((1, 2, 4, 4, 8))
    value = (rng.choice(NUMBERS) % (1 << 8 * size)).to_bytes(size, rng.choice(("big", "little")))
    at = _place(rng, data)
    return data[:at] + value + data[at + size :]


def _after_name(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    """A number next to what looks like a box's or chunk's name."""
    names = [found.start() for found in _NAME.finditer(data)] or [0]
    at = max(0, rng.choice(names) + rng.choice((-8, -4, 4, 8, 12, 16)))
    return data[:at] + (rng.choice(NUMBERS) % (1 << 32)).to_bytes(4, "big") + data[at + 4 :]


def _cut(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: _place(rng, data)]


def _splice(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others or (data,))
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def _without(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at = _place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 16, 188, 512)) :]


def _twice(rng: random.Random, data: bytes, _: Sequence[bytes]) -> bytes:
    at, n = _place(rng, data), rng.choice((1, 16, 188, 512, 4096))
    return data[: at + n] + data[at : at + n] * rng.choice((1, 1, 3)) + data[at + n :]


_BYTE_CHANGES: tuple[Callable[[random.Random, bytes, Sequence[bytes]], bytes], ...] = (
    *(_flip, _run, _number, _number, _after_name, _after_name, _cut, _splice, _without, _twice),
)

VALUES: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 1e308, 0.5, float("nan"), float("inf"), HUGE, DEEP),
    *("", " ", "A", "0", "../x", "/etc/passwd", "a\0b", "\ud83d", "\u2028", "é\u0301", "x" * 100_000, "[" * 300),
    *([], {}, [None], [[]], {"": None}, [1, "a", None], {"a": {"b": []}}),
)


def mutated_json(rng: random.Random, value: object) -> object:
    """A copy in which one to four values are others, gone, or stand elsewhere too."""
    holder = [copy.deepcopy(value)]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = list(_places(holder))
        container, key = rng.choice(places)
        found = container[key]
        change = rng.randrange(8)
        if change == 0 and container is not holder:
            del container[key]
        elif change == 1:
            there, name = rng.choice(places)
            container[key] = copy.deepcopy(there[name])
        elif change == 2:
            container[key] = rng.choice(([found], {"x": found}, [found] * 3, str(found)))
        elif change == 3 and isinstance(container, dict):
            container[rng.choice((key.upper(), key + "s", "", "\udc80"))] = found
        elif change == 4 and type(found) in (int, float):
            container[key] = rng.choice((-found, found + 1, found * 1e6, float(found), str(found)))
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    return holder[0]


def _places(value):
    """(container, key) of everything below a list or an object."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def dumped(rng: random.Random, value: object, **options: object) -> str:
    """JSON, with what json.dumps cannot write."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, **options)
    depth = rng.choice((50, 300, rng.randrange(850, 1000), 100_000))
    text = text.replace(f'"{DEEP}"', "[" * depth + "]" * depth)
    return text.replace(f'"{HUGE}"', "9" * rng.choice((20, 400, 5000)))


def encoded(rng: random.Random, text: str, others: Sequence[bytes] = ()) -> bytes:
    """As a file: most often UTF-8, now and then as other systems have it, or damaged."""
    data = text.encode("utf-8", "surrogatepass" if rng.random() < 0.2 else "backslashreplace")
    match rng.randrange(24):
        case 0:
            return text.encode(rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig")), "replace")
        case 1:
            return text.encode("latin-1", "replace")
        case 2:
            return data.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\0\n")))
        case 3:
            key = b'"' + rng.choice((b"question_id", b"sample_id", b"x")) + b'":'
            return data.replace(b"{", b"{" + key + rng.choice((b"1", b"null", b'"L1/1"')) + b",", 1)
        case 4 | 5 | 6:
            return mutated(rng, data, others)
    return data
