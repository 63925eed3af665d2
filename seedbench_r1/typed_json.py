"""JSON -> dataclasses, checked field by field: a file may have been edited, damaged, or written by another tool."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")
Convert = Callable[[Any], Any]
_ABSENT = object()
LARGEST = 1e300  # a whole number of JSON may have any number of digits
MOST_DEPTH = 100  # of lists and objects in one another; what is read here has ten at most


@dataclass(frozen=True, slots=True)
class Range:
    """Of a number, in Annotated: both ends belong to it."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class RepeatedKey:
    """What stands for an object of JSON text in which a key stands twice, so that no reader takes it for an object."""

    name: str

    def __repr__(self) -> str:
        return f"an object in which {self.name!r} stands twice"


def parse_json(text: str | bytes, *, unique: bool = False) -> Any:  # noqa: ANN401  # JSON
    """json.loads; ValueError also for what is nested too deeply, for it or for all that is done with the value.

    unique: an object in which a key stands twice becomes a RepeatedKey; json.loads takes the last one.
    """
    try:
        # Not json.loads, which makes a decoder for each of a million rows.
        value = _UNIQUE.decode(text if isinstance(text, str) else text.decode()) if unique else json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    brackets = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, brackets)) > MOST_DEPTH:  # type: ignore[arg-type]  # both are text, or both bytes
        refuse_deep(value)
    return value


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any] | RepeatedKey:
    """The object of these pairs, for json's object_pairs_hook; a RepeatedKey where a key stands twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        return RepeatedKey(next(name for name in names if names.count(name) > 1))
    return found


_UNIQUE = json.JSONDecoder(object_pairs_hook=unique_keys)


def refuse_deep(value: object) -> None:
    """Raise ValueError for lists and objects more than MOST_DEPTH deep: repr and json.dumps would end in an error."""
    level = [value]
    for _ in range(MOST_DEPTH):
        items = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [item for some in items for item in some if isinstance(item, dict | list)]
        if not level:
            return
    raise ValueError("nested too deeply")


def finite(value: object) -> float | None:
    """A JSON number as a float; None for anything else, NaN, infinity and what is larger than any float."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < LARGEST:
        return None
    return float(value)


def without_nan(value: T) -> T:
    """JSON values with None in the place of NaN and infinities, for which JSON has no words."""
    made: object = value
    if isinstance(value, Mapping):
        made = {name: without_nan(part) for name, part in value.items()}
    elif isinstance(value, list | tuple):
        made = [without_nan(part) for part in value]
    elif isinstance(value, float) and not math.isfinite(value):
        made = None
    return cast(T, made)


def from_json(kind: type[T], value: object) -> T:
    """A value of a type, from JSON. Keys that a dataclass does not have are of a later version, and left out.

    Args:
        kind: a dataclass, or anything that its fields are made of: str, int, float, bool, None, Path, Literal, unions,
            tuples, lists, dictionaries with str keys, Annotated numbers with a Range, Any.
        value: what parse_json returns.

    Raises:
        ValueError: a field is absent or not of its type; the message begins with its name.
    """
    result: T = _converter(cast(Hashable, kind))(value)
    return result


@cache
def _converter(kind: Any) -> Convert:  # noqa: ANN401  # any type, generic aliases among them
    """The function that converts one type: made once, since reports read a hundred thousand records."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass_converter(kind)
    if origin is Annotated:
        return _ranged(_converter(arguments[0]), next((a for a in arguments[1:] if isinstance(a, Range)), None))
    if origin is Literal:
        return _one_of(arguments)
    if origin in (Union, types.UnionType):
        kinds = [_converter(argument) for argument in arguments if argument is not type(None)]
        return _union(kinds, optional=len(kinds) < len(arguments))
    if origin in (tuple, list):
        return _sequence(origin, arguments)
    if origin in (dict, Mapping):
        return _mapping(_converter(arguments[1]))
    return _plain(kind)


def _plain(kind: type) -> Convert:
    def convert(value: Any) -> Any:  # noqa: ANN401
        # A bool is an int to isinstance; an int is as good as a float, where it fits into one.
        if type(value) is kind:
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"is {value}")
            return value
        if kind is float and type(value) is int and abs(value) < LARGEST:
            return float(value)
        if kind is Path and type(value) is str:
            return Path(value)
        if kind is type(None) and value is None:
            return value
        raise ValueError(f"is {shown(value)}, expected {_NAMES.get(kind, kind.__name__)}")

    return convert


_NAMES = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def _ranged(convert: Convert, limits: Range | None) -> Convert:
    def ranged(value: Any) -> Any:  # noqa: ANN401
        found = convert(value)
        if limits is not None and not limits.low <= found <= limits.high:
            raise ValueError(f"is {shown(value)}, expected {limits.low:g} to {limits.high:g}")
        return found

    return ranged


def _one_of(choices: tuple[object, ...]) -> Convert:
    def convert(value: Any) -> Any:  # noqa: ANN401
        # Unhashable values are in no set, but may be compared.
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise ValueError(f"is {shown(value)}, expected one of {', '.join(map(str, choices))}")
        return value

    return convert


def _union(converters: list[Convert], *, optional: bool) -> Convert:
    def convert(value: Any) -> Any:  # noqa: ANN401
        if value is None and optional:
            return None
        problems = []
        for attempt in converters:
            try:
                return attempt(value)
            except ValueError as error:
                problems.append(error)
        # The first type says what was meant.
        raise problems[0]

    return convert


def _sequence(origin: type, arguments: tuple[Any, ...]) -> Convert:
    fixed = origin is tuple and arguments[-1] is not Ellipsis
    converters = [_converter(argument) for argument in arguments if argument is not Ellipsis]

    def convert(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not list or (fixed and len(value) != len(converters)):
            raise ValueError(f"is {shown(value)}, expected a list" + (f" of {len(converters)}" if fixed else ""))
        each = converters if fixed else converters * len(value)
        return origin(one(item) for one, item in zip(each, value, strict=True))

    return convert


def _mapping(convert_item: Convert) -> Convert:
    def convert(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not dict:
            raise ValueError(f"is {shown(value)}, expected an object")
        found, name = {}, ""
        try:
            for name, item in value.items():
                found[name] = convert_item(item)
        except ValueError as error:
            raise _of_field(name, error) from error
        return found

    return convert


def _dataclass_converter(kind: type) -> Convert:
    hints = get_type_hints(kind, include_extras=True)
    fields = [(f.name, _as_they_are(hints[f.name]), _converter(hints[f.name]), _is_needed(f)) for f in _fields(kind)]

    def convert(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not dict:
            raise ValueError(f"is {shown(value)}, expected an object")
        found, name = {}, ""
        try:
            for name, simple, convert_field, needed in fields:  # the name is for the message
                item = value.get(name, _ABSENT)
                # Most values of a file are as they should be, and need no call.
                if type(item) in simple:
                    found[name] = item
                elif item is not _ABSENT:
                    found[name] = convert_field(item)
                elif needed:
                    raise ValueError("is absent")
        except ValueError as error:
            raise _of_field(name, error) from error
        return kind(**found)

    return convert


def _fields(kind: Any) -> tuple[dataclasses.Field[Any], ...]:  # noqa: ANN401  # a dataclass
    return dataclasses.fields(kind)


def _as_they_are(hint: Any) -> frozenset[type]:  # noqa: ANN401  # any type
    """The types whose every value a field of this type takes unchanged."""
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return frozenset(part for part in parts if part in (str, int, bool, type(None)))


def _is_needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _of_field(name: str, error: ValueError) -> ValueError:
    """The error with the field's name before it: "generation.n_tokens is -5, expected ..."."""
    separator = " " if str(error).startswith(("is ", "has ")) else "."
    return ValueError(f"{name}{separator}{error}")


def shown(value: object) -> str:
    """A value in a message, cut to a length that can be read."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
