"""The interface of the machine that the guest uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Region(Protocol):
    """A contiguous part of guest memory."""

    @property
    def gpa(self) -> int:
        """Guest physical address of its first byte."""

    @property
    def size(self) -> int:
        """Its size in bytes."""


class Ram(Protocol):
    """Guest memory, and the record of what the guest itself has written to it."""

    @property
    def free_regions(self) -> Sequence[Region]:
        """The regions that the guest may use, in address order."""

    def view(self, gpa: int, length: int) -> memoryview:
        """The bytes [gpa, gpa + length), writable."""

    def mark(self, gpa: int, length: int) -> None:
        """Record that these bytes were written (after the write, so that no copy misses it)."""


class Platform(Protocol):
    """The machine as its guest sees it."""

    @property
    def ram(self) -> Ram:
        """Guest memory."""

    @property
    def paused(self) -> bool:
        """Whether the vCPUs are to pause; guest code then returns before its next operation."""

    def notify_address(self, device: int, ring: int) -> int:
        """The guest physical address whose write kicks a ring."""

    def vector(self, device: int, ring: int) -> int:
        """The interrupt vector of a ring, unique in the machine."""

    def notify(self, address: int, value: int) -> None:
        """Write to a notify address."""
