"""JSON of another program: migration streams, QMP, and reports. All of it is read here.

`parse` rejects numbers that are infinite or need more than 64 bits, strings that cannot be encoded,
and nesting that is too deep. `read` also checks the value against a *shape*, so that its caller
needs no checks of its own:

    read(data, Members({"marks": Map(int), "error": Maybe(int), "rows": Each(Row(str, float))}))

A shape is a type (``int``, ``float``, ``str``, ``bool``; ``object`` for any value) or one of the
classes below.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The integers of a message: those that fit 64 bits, with or without a sign.
INTEGERS = range(-(1 << 63), 1 << 64)


class JsonInputError(ValueError):
    """The input is not JSON, is out of bounds, or has another shape; the text names the place."""


class _Shape(ABC):
    """What a value has to be."""

    @abstractmethod
    def check(self, value: Any, at: str) -> Any:
        """The value, with the members that the shape names.

        Args:
            value: from `parse`.
            at: its place, for the error.

        Raises:
            JsonInputError: the value has another shape.
        """


#: A type or one of the classes of this module.
Shape = type | _Shape

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def parse(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        JsonInputError: the text is not JSON, or a value in it is out of bounds.
    """
    try:
        value = json.loads(data, parse_int=_integer, parse_float=_finite, parse_constant=_constant)
        _encodable(value)
    except JsonInputError:
        raise
    except ValueError as error:
        raise JsonInputError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise JsonInputError("it is nested too deeply") from None
    return value


def read(data: bytes | str, shape: Shape) -> Any:
    """The value of a JSON text that has to have a shape.

    Raises:
        JsonInputError: the text is not JSON, or has another shape.
    """
    return check(parse(data), shape)


def check(value: Any, shape: Shape, at: str = "") -> Any:
    """A value that has to have a shape, with the members that the shape names.

    Args:
        value: from `parse`.
        shape: what it has to be.
        at: its place, for the error.

    Raises:
        JsonInputError: it has another shape.
    """
    if isinstance(shape, _Shape):
        return shape.check(value, at)
    if shape is float and type(value) is int:
        return float(value)  # JSON has one type for both
    # A bool is an int to Python, but not to JSON.
    if shape is not object and type(value) is not shape:
        raise JsonInputError(f"{at or 'the value'} is not {_NAMES[shape]}")
    return value


class Whole(_Shape):
    """An integer of a range."""

    def __init__(self, least: int = 0, most: int = INTEGERS[-1]) -> None:
        self._range = range(least, most + 1)

    def check(self, value: Any, at: str) -> Any:
        """See `_Shape.check`."""
        if check(value, int, at) not in self._range:
            limits = f"{self._range[0]} to {self._range[-1]}"
            raise JsonInputError(f"{at or 'the value'} is {value}, not {limits}")
        return value


class Real(_Shape):
    """A number of a range."""

    def __init__(self, least: float, most: float) -> None:
        self._least, self._most = least, most

    def check(self, value: Any, at: str) -> Any:
        """See `_Shape.check`."""
        number = check(value, float, at)
        if not self._least <= number <= self._most:
            limits = f"{self._least:g} to {self._most:g}"
            raise JsonInputError(f"{at or 'the value'} is {number:g}, not {limits}")
        return number


class Maybe(_Shape):
    """A value, or null."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def check(self, value: Any, at: str) -> Any:
        """See `_Shape.check`."""
        return None if value is None else check(value, self._shape, at)


class Each(_Shape):
    """A list of any length."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def check(self, value: Any, at: str) -> Any:
        """See `_Shape.check`."""
        if not isinstance(value, list):
            raise JsonInputError(f"{at or 'the value'} is not a list")
        return [check(item, self._shape, f"{at}[{index}]") for index, item in enumerate(value)]


class Row(_Shape):
    """A list of these values, one after the other."""

    def __init__(self, *shapes: Shape) -> None:
        self._shapes = shapes

    def check(self, value: Any, at: str) -> Any:
        """See `_Shape.check`."""
        if not isinstance(value, list) or len(value) != len(self._shapes):
            raise JsonInputError(f"{at or 'the value'} is not a list of {len(self._shapes)}")
        return [
            check(item, shape, f"{at}[{index}]")
            for index, (item, shape) in enumerate(zip(value, self._shapes, strict=True))
        ]


class Map(_Shape):
    """An object with any names."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape

    def check(self, value: Any, at: str) -> Any:
        """See `_Shape.check`."""
        if not isinstance(value, dict):
            raise JsonInputError(f"{at or 'the value'} is not an object")
        return {
            name: check(member, self._shape, _member(at, name)) for name, member in value.items()
        }


class Members(_Shape):
    """An object with these members, and perhaps the optional ones.

    Args:
        required, optional: the shapes of the members.
        closed: a further member is an error; by default it is dropped.
    """

    def __init__(
        self,
        required: Mapping[str, Shape],
        optional: Mapping[str, Shape] | None = None,
        *,
        closed: bool = False,
    ) -> None:
        self._required = required
        self._optional = optional or {}
        self._closed = closed

    def check(self, value: Any, at: str) -> Any:
        """See `_Shape.check`."""
        if not isinstance(value, dict):
            raise JsonInputError(f"{at or 'the value'} is not an object")
        missing = [name for name in self._required if name not in value]
        if missing:
            raise JsonInputError(f"{_member(at, missing[0])} is missing")
        shapes = {**self._required, **self._optional}
        if self._closed and (unknown := sorted(value.keys() - shapes.keys())):
            raise JsonInputError(f"{_member(at, unknown[0])} is unknown")
        return {
            name: check(value[name], shape, _member(at, name))
            for name, shape in shapes.items()
            if name in value
        }


def _member(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _integer(text: str) -> int:
    # Before the conversion: it takes quadratic time.
    if len(text) > 20 or int(text) not in INTEGERS:
        raise JsonInputError(f"a whole number of more than 64 bits: {text[:20]}")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise JsonInputError(f"{text[:20]} is too large a number")
    return value


def _constant(text: str) -> float:
    raise JsonInputError(f"{text} is not a number of JSON")


def _encodable(value: Any) -> None:
    """Check that all strings can be printed and sent: JSON can escape half a surrogate pair.

    Raises:
        JsonInputError: one cannot.
    """
    if isinstance(value, str):
        try:
            value.encode(errors="surrogateescape")  # for names of files that are not UTF-8
        except UnicodeEncodeError:
            raise JsonInputError(f"{value[:20]!r} is not text") from None
    elif isinstance(value, list):
        for item in value:
            _encodable(item)
    elif isinstance(value, dict):
        for name, member in value.items():
            _encodable(name)
            _encodable(member)
