"""How a payload class registers its layout, and what codec and documentation need of it."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class PayloadError(ValueError):
    """A payload has a size or a content that its message cannot have."""


class Payload(Protocol):
    """A payload: a tuple of its fields that can be packed."""

    def __iter__(self) -> Iterator[Any]: ...

    def pack(self) -> bytes:
        """The payload's bytes on the wire.

        Raises:
            PayloadError: a field has a value that the message cannot carry.
        """
        ...

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The payload that these bytes are.

        Raises:
            PayloadError: the message cannot have this size or these contents.
        """
        ...


class Shape(NamedTuple):
    """What codec and documentation need of a payload's class.

    Attributes:
        smallest: bytes at least.
        largest: bytes at most (the same for a fixed size).
        fields: names, in order.
        layout: the struct of a fixed size, or None.
        plain: the values of ``layout`` are the fields one by one, and nothing else is checked.
    """

    smallest: int
    largest: int
    fields: tuple[str, ...]
    layout: struct.Struct | None
    plain: bool


#: The shape of every payload class.
SHAPES: dict[type[Payload], Shape] = {}

P = TypeVar("P", bound=Payload)


def payload(
    layout: str | None = None,
    *,
    sizes: tuple[int, int] | None = None,
    plain: bool = True,
) -> Callable[[type[P]], type[P]]:
    """Register a payload's class and its shape.

    Args:
        layout: `struct` format of a payload of a fixed size.
        sizes: least and most bytes of any other.
        plain: the values of ``layout`` are the fields one by one, any of them valid. Otherwise
            the codec calls the class's own ``pack`` and ``unpack``.
    """

    def register(kind: type[P]) -> type[P]:
        fields = cast("tuple[str, ...]", cast("Any", kind)._fields)
        if layout is not None:
            made = struct.Struct(layout)
            SHAPES[kind] = Shape(made.size, made.size, fields, made, plain)
        elif sizes is not None:
            SHAPES[kind] = Shape(*sizes, fields, None, plain=False)
        else:
            raise TypeError(f"{kind.__name__} needs a layout or sizes")
        return kind

    return register


def layout_of(kind: type[Payload]) -> struct.Struct:
    """The layout of a payload's class of a fixed size."""
    return cast("struct.Struct", SHAPES[kind].layout)


def pack_fields(payload: Payload) -> bytes:
    """The bytes of a payload whose class has a layout."""
    return layout_of(payload.__class__).pack(*payload)


def unpack_fields(kind: type[Payload], data: bytes) -> tuple[Any, ...]:
    """The values of a layout.

    Raises:
        PayloadError: there are more or fewer bytes than the layout has.
    """
    layout = layout_of(kind)
    if len(data) != layout.size:
        raise PayloadError(f"{kind.__name__} has {layout.size} bytes, not {len(data)}")
    return layout.unpack(data)
