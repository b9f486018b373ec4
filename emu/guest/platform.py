"""What the guest needs of its machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Region(Protocol):
    """A piece of guest memory: its guest physical address and its bytes."""

    @property
    def gpa(self) -> int:
        """Where it begins."""

    @property
    def size(self) -> int:
        """How many bytes it has."""


class Ram(Protocol):
    """Guest memory, and the record of what the guest itself has written to it."""

    @property
    def free_regions(self) -> Sequence[Region]:
        """What the guest may use, by address."""

    def view(self, gpa: int, length: int) -> memoryview:
        """The bytes [gpa, gpa + length), writable."""

    def mark(self, gpa: int, length: int) -> None:
        """These bytes have been written (called after the write, so that no copy misses it)."""


class Platform(Protocol):
    """The machine as its guest sees it."""

    @property
    def ram(self) -> Ram:
        """Guest memory."""

    @property
    def paused(self) -> bool:
        """The vCPUs are to pause; guest code returns before it begins another operation."""

    def notify_address(self, device: int, ring: int) -> int:
        """The guest physical address whose write kicks a ring."""

    def vector(self, device: int, ring: int) -> int:
        """The interrupt vector of a ring, unique in the machine."""

    def notify(self, address: int, value: int) -> None:
        """Write to a notify address."""
