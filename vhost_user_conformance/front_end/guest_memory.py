"""Guest memory that the front-end has shared, mapped by the suite's back-end."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user_conformance.front_end.descriptors import map_shared

if TYPE_CHECKING:
    import mmap

    from vhost_user.payloads import MemoryRegion


class Mapped(NamedTuple):
    """A region of guest memory and its mapping.

    Attributes:
        view: None if the region cannot be mapped.
        sized: the mapping's file has a size; a device file has none.
    """

    region: MemoryRegion
    view: mmap.mmap | None
    sized: bool

    @property
    def size(self) -> int:
        """Number of bytes of the region that can be accessed now.

        A front-end may truncate the file after sharing it, and an access beyond its end raises
        SIGBUS; so the file's size is read before each access. A truncation between that and the
        access still ends the suite: Python cannot handle SIGBUS, and a ring cannot be served by
        pread and pwrite.
        """
        if self.view is None or not self.sized:
            return self.region.size
        return max(0, min(self.region.size, self.view.size() - self.region.mmap_offset))


class GuestMemory:
    """The memory that a front-end has shared."""

    def __init__(self) -> None:
        self.mapped: list[Mapped] = []

    def add(self, region: MemoryRegion, fd: int) -> None:
        """Map one more region."""
        view = map_shared(fd, region.size, region.mmap_offset)
        sized = view is not None and view.size() >= len(view)
        self.mapped.append(Mapped(region, view, sized))

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
            if each.view and region.gpa <= gpa and gpa + size <= region.gpa + each.size:
                at = gpa - region.gpa + region.mmap_offset
                return memoryview(each.view)[at : at + size]
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
