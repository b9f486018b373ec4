"""Guest memory that arrives after its rings have started, page by page, on demand.

A back-end registers its mappings with a userfaultfd(2). An access to a missing page blocks; the
front-end, which has the same descriptor, reads the fault, copies the page and wakes the thread that
waits (vhost-user specification, "Postcopy live migration").
"""

from __future__ import annotations

import mmap
import os
import threading
from functools import cache
from typing import TYPE_CHECKING

from vhost_user import native
from vhost_user.codec import close_all
from vhost_user.memory import MappedRegion, MemoryTable, MemoryTableError, map_region

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user.mapping import Mapping
    from vhost_user.payloads import MemoryRegion


@cache
def possible() -> bool:
    """Whether this process may handle page faults, including those of system calls."""
    if not native.available:
        return False
    try:
        Userfault().close()
    except OSError:
        return False
    return True


class PagesMissing(Exception):
    """Pages of guest memory have not arrived.

    Args:
        view: the memory.
    """

    def __init__(self, view: memoryview) -> None:
        super().__init__(f"{len(view)} bytes of guest memory have not arrived")
        self._view = view

    def wait(self) -> None:
        """Return when the pages are present, however long that takes.

        It does not hold the interpreter's lock meanwhile, so other threads continue, and can call
        `Userfault.give_up`.
        """
        view = self._view
        native.lib.vu_touch(native.ffi.from_buffer(view), len(view), mmap.PAGESIZE)


class Userfault:
    """A userfaultfd, and the memory that is registered with it. Several threads may use it.

    Attributes:
        fd: the descriptor.

    Raises:
        OSError: the kernel does not have it, or not for this user.
    """

    def __init__(self) -> None:
        native.require()
        self.fd: int = native.lib.vu_uffd_open()
        if self.fd < 0:
            raise OSError(-self.fd, os.strerror(-self.fd))
        self._lock = threading.Lock()
        # References to the mappings, so that nothing else is mapped at their addresses.
        self._watched: list[Mapping] = []
        self._over = False

    def watch(self, mapping: Mapping) -> None:
        """From now on an access to a missing page of a mapping blocks until the page arrives.

        Raises:
            OSError: the kernel cannot do this with the mapping, or does it already.
        """
        with self._lock:
            if self._over:
                return
            error = native.lib.vu_uffd_watch(self.fd, mapping.start, mapping.length)
            if error:
                raise OSError(error, os.strerror(error))
            self._watched.append(mapping)

    def give_up(self) -> None:
        """Wait for no more pages: missing ones are zeroes now. Threads that wait continue."""
        with self._lock:
            self._over = True
            while self._watched:
                mapping = self._watched.pop()
                native.lib.vu_uffd_unwatch(self.fd, mapping.start, mapping.length)

    def close(self) -> None:
        """Close the descriptor; no page can be requested any more."""
        self.give_up()
        os.close(self.fd)


class FaultingTable(MemoryTable):
    """A memory table that returns views only when their pages are present, and never waits.

    An access to a missing page would wait, with the interpreter's lock. The caller waits instead,
    in a thread that has nothing else to do (`PagesMissing.wait`), and asks for the view again then.

    A change is proposed first, and takes effect with the front-end's go-ahead.
    """

    def __init__(self, faults: Userfault) -> None:
        super().__init__()
        self._faults = faults
        self._proposed: list[tuple[MappedRegion, int]] = []
        self._replaces = False
        self._files: dict[MemoryRegion, int] = {}

    @property
    def slots(self) -> int:
        """How many regions there are, proposed ones included."""
        return len(self._files) + len(self._proposed)

    def propose(
        self, regions: Sequence[MemoryRegion], fds: Sequence[int], *, replace: bool
    ) -> list[int]:
        """Map regions that `commit` puts into the table; owns the descriptors.

        Args:
            regions: what to map.
            fds: a descriptor for each.
            replace: they are the whole table, not an addition.

        Returns:
            The address in this process of each region's first byte.

        Raises:
            MemoryTableError: as `MemoryTable.replace`.
        """
        try:
            if len(regions) != len(fds):
                raise MemoryTableError(f"{len(regions)} regions came with {len(fds)} descriptors")
            pairs = zip(regions, fds, strict=True)
            mapped = [map_region(region, fd) for region, fd in pairs]
        except MemoryTableError:
            close_all(fds)
            raise
        if replace:
            close_all(fd for _, fd in self._proposed)
            self._proposed.clear()
            self._replaces = True
        self._proposed += zip(mapped, fds, strict=True)
        return [native.address_of(each.data) for each in mapped]

    def commit(self) -> None:
        """Put what was proposed into the table.

        Raises:
            MemoryTableError: regions overlap, or the kernel cannot handle their page faults.
        """
        proposed = [mapped for mapped, _ in self._proposed]
        self._install([*([] if self._replaces else self._regions), *proposed])
        if self._replaces:
            close_all(self._files.values())
            self._files.clear()
        self._files.update((mapped.region, fd) for mapped, fd in self._proposed)
        self._proposed, self._replaces = [], False
        try:
            for mapped in proposed:
                self._faults.watch(mapped.mapping)
        except OSError as error:
            raise MemoryTableError(
                f"page faults of a region cannot be handled: {error.strerror}"
            ) from error

    def detach(self) -> list[tuple[MemoryRegion, int]]:
        """The regions with their descriptors, which belong to the caller from now on."""
        detached = list(self._files.items())
        self._files.clear()
        return detached

    def remove(self, region: MemoryRegion) -> None:
        """As `MemoryTable.remove`."""
        super().remove(region)
        for known in [known for known in self._files if known[:3] == region[:3]]:
            os.close(self._files.pop(known))

    def close(self) -> None:
        """As `MemoryTable.close`."""
        super().close()
        close_all(fd for _, fd in self._proposed)
        close_all(self._files.values())
        self._proposed.clear()
        self._files.clear()

    def view(self, gpa: int, length: int) -> memoryview:
        """As `MemoryTable.view`.

        Raises:
            PagesMissing: pages have not arrived.
        """
        return _present(super().view(gpa, length))

    def slices(self, gpa: int, length: int) -> list[memoryview]:
        """As `MemoryTable.slices`.

        Raises:
            PagesMissing: pages have not arrived.
        """
        return [_present(piece) for piece in super().slices(gpa, length)]

    def user_view(self, user_addr: int, length: int) -> memoryview:
        """As `MemoryTable.user_view`.

        Raises:
            PagesMissing: pages have not arrived.
        """
        return _present(super().user_view(user_addr, length))


def _present(view: memoryview) -> memoryview:
    if len(view) and not native.lib.vu_present(
        native.ffi.from_buffer(view), len(view), mmap.PAGESIZE
    ):
        raise PagesMissing(view)
    return view
