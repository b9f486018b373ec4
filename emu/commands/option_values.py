"""Converts a command's click options to typed groups of values."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")


def values_of(group: type[T], options: Mapping[str, Any]) -> T:
    """The values of a group.

    Args:
        group: a dataclass with a field for each option of the group; a field of an option that not
            every command has needs a default.
        options: of the command, by parameter name.

    Raises:
        TypeError: the command lacks an option whose field has no default.
    """
    names = [field.name for field in fields(group)]  # type: ignore[arg-type]
    return group(**{name: options[name] for name in names if name in options})
