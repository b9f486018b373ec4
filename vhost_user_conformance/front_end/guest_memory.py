"""Guest memory that the front-end has shared, mapped by the suite's back-end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user_conformance.front_end.descriptors import map_shared

if TYPE_CHECKING:
    from vhost_user.payloads import MemoryRegion
    from vhost_user_conformance.front_end.descriptors import SharedBytes


class Mapped(NamedTuple):
    """A region of guest memory and its mapping, or None if the region cannot be mapped."""

    region: MemoryRegion
    shared: SharedBytes | None

    @property
    def size(self) -> int:
        """Number of bytes of the region that can be accessed now.

        A front-end may truncate the file after sharing it, so its size is read before each access.
        """
        return self.region.size if self.shared is None else self.shared.size


class GuestMemory:
    """The memory that a front-end has shared."""

    def __init__(self) -> None:
        self.mapped: list[Mapped] = []

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Map one more region."""
        shared = map_shared(fd, region.size, region.mmap_offset)
        self.mapped.append(Mapped(region, shared))

    def remove(self, region: MemoryRegion) -> None:
        """Unmap the region at these addresses."""
        self.mapped = [
            each
            for each in self.mapped
            if (each.region.gpa, each.region.size) != (region.gpa, region.size)
        ]

    def clear(self) -> None:
        """Unmap all regions."""
        self.mapped.clear()

    def gpa(self, user: int, size: int) -> int | None:
        """The guest address of a user address; None if no region contains all ``size`` bytes."""
        for region, *_ in self.mapped:
            if region.user_addr <= user and user + size <= region.user_addr + region.size:
                return user - region.user_addr + region.gpa
        return None

    def view(self, gpa: int, size: int) -> memoryview | None:
        """These bytes; None if no mapped region contains them all. Valid until memory changes."""
        for each in self.mapped:
            region = each.region
            if each.shared and region.gpa <= gpa and gpa + size <= region.gpa + each.size:
                at = gpa - region.gpa
                return each.shared.view[at : at + size]
        return None

    def covers(self, gpa: int, size: int) -> bool:
        """Whether all of these bytes are shared, possibly in several adjacent regions."""
        while size > 0:
            for each in self.mapped:
                start, end = each.region.gpa, each.region.gpa + each.size
                if start <= gpa < end:
                    taken = min(size, end - gpa)
                    gpa, size = gpa + taken, size - taken
                    break
            else:
                return False
        return True
