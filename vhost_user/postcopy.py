"""Guest memory that arrives after its rings have started, page by page, on demand.

A back-end registers its mappings with a userfaultfd(2). An access to a missing page blocks; the
front-end, which has the same descriptor, reads the fault, copies the page and wakes the thread that
waits (vhost-user specification, "Postcopy live migration").

A page may be missing again when it was there a moment ago: the front-end can punch holes at any
time. So the memory is mapped twice. Threads that have nothing else to do wait in the *arrivals*,
which are registered with the front-end's descriptor. Everything else uses the other mapping, where
an access to a missing page fails like one to a file that has shrunk (UFFD_FEATURE_SIGBUS), and
never waits: `vhost_user.mapping` counts it, and the device fails.
"""

from __future__ import annotations

import mmap
import os
import threading
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

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
        PageFaults().close()
    except OSError:
        return False
    return True


class PagesMissing(Exception):
    """Pages of guest memory have not arrived.

    Args:
        view: the memory, where threads may wait for it.
    """

    def __init__(self, view: memoryview) -> None:
        super().__init__(f"{len(view)} bytes of guest memory have not arrived")
        self._view = view

    def wait(self) -> None:
        """Return when the pages are present, however long that takes.

        It does not hold the GIL meanwhile, so other threads continue, and can call
        `Userfault.give_up`.
        """
        view = self._view
        native.lib.vu_touch(native.ffi.from_buffer(view), len(view), mmap.PAGESIZE)


class Userfault:
    """A userfaultfd, and the memory that is registered with it. Several threads may use it.

    Args:
        fails: an access to a missing page fails; otherwise it waits for the page.

    Attributes:
        fd: the descriptor.

    Raises:
        OSError: the kernel does not have it, or not for this user.
    """

    def __init__(self, *, fails: bool = False) -> None:
        native.require()
        self.fd: int = native.lib.vu_uffd_open(fails)
        if self.fd < 0:
            raise OSError(-self.fd, os.strerror(-self.fd))
        self._lock = threading.Lock()
        # References to the mappings, so that nothing else is mapped at their addresses.
        self._watched: list[Mapping] = []
        self._over = False

    def watch(self, mapping: Mapping) -> None:
        """From now on an access to a missing page of a mapping waits for the page, or fails.

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
        """Handle no more faults: missing pages are zeroes now. Threads that wait continue."""
        with self._lock:
            self._over = True
            while self._watched:
                mapping = self._watched.pop()
                native.lib.vu_uffd_unwatch(self.fd, mapping.start, mapping.length)

    def close(self) -> None:
        """Close the descriptor; no page can be requested any more."""
        self.give_up()
        os.close(self.fd)


class PageFaults:
    """What handles the faults of one device's memory, until the postcopy ends.

    Attributes:
        arrivals: of mappings where threads wait for pages; the front-end has its descriptor.
        holes: of mappings that are used, where no thread ever waits.

    Raises:
        OSError: the kernel does not have it, or not for this user.
    """

    def __init__(self) -> None:
        self.arrivals = Userfault()
        try:
            self.holes = Userfault(fails=True)
        except OSError:
            self.arrivals.close()
            raise

    def give_up(self) -> None:
        """From any thread: wait for no more pages; missing ones are zeroes now."""
        self.holes.give_up()
        self.arrivals.give_up()

    def close(self) -> None:
        """Close the descriptors."""
        self.holes.close()
        self.arrivals.close()


class _Backing(NamedTuple):
    """What a region has besides the mapping that is used."""

    arrivals: Mapping
    fd: int


class FaultingTable(MemoryTable):
    """A memory table that returns views only when their pages are present, and never waits.

    Where they are not, the caller has another thread wait, which has nothing else to do
    (`PagesMissing.wait`), and asks for the view again then. A page that is missing when the view is
    used has been removed by the front-end, and is lost (`MemoryTable.check`).

    A change is proposed first, and takes effect with the front-end's go-ahead.
    """

    _why_lost = "the front-end has removed pages in a postcopy, or its file has shrunk"

    def __init__(self, faults: PageFaults) -> None:
        super().__init__()
        self._faults = faults
        self._proposed: list[tuple[MappedRegion, _Backing]] = []
        self._replaces = False
        self._backing: dict[MemoryRegion, _Backing] = {}

    @property
    def slots(self) -> int:
        """How many regions there are, proposed ones included."""
        return len(self._backing) + len(self._proposed)

    def propose(
        self, regions: Sequence[MemoryRegion], fds: Sequence[int], *, replace: bool
    ) -> list[int]:
        """Map regions that `commit` puts into the table; owns the descriptors.

        Args:
            regions: what to map.
            fds: a descriptor for each.
            replace: they are the whole table, not an addition.

        Returns:
            The address in this process where threads wait for each region's first byte.

        Raises:
            MemoryTableError: as `MemoryTable.replace`.
        """
        try:
            if len(regions) != len(fds):
                raise MemoryTableError(f"{len(regions)} regions came with {len(fds)} descriptors")
            pairs = list(zip(regions, fds, strict=True))
            mapped = [
                (map_region(*pair), _Backing(map_region(*pair).mapping, pair[1])) for pair in pairs
            ]
        except MemoryTableError:
            close_all(fds)
            raise
        if replace:
            close_all(backing.fd for _, backing in self._proposed)
            self._proposed.clear()
            self._replaces = True
        self._proposed += mapped
        return [native.address_of(backing.arrivals.view) for _, backing in mapped]

    def commit(self) -> None:
        """Put what was proposed into the table.

        Raises:
            MemoryTableError: regions overlap, or the kernel cannot handle their page faults.
        """
        proposed = self._proposed
        kept = [] if self._replaces else self._regions
        self._install([*kept, *(mapped for mapped, _ in proposed)])
        if self._replaces:
            close_all(backing.fd for backing in self._backing.values())
            self._backing.clear()
        self._backing.update((mapped.region, backing) for mapped, backing in proposed)
        self._proposed, self._replaces = [], False
        try:
            for mapped, backing in proposed:
                self._faults.arrivals.watch(backing.arrivals)
                self._faults.holes.watch(mapped.mapping)
        except OSError as error:
            raise MemoryTableError(
                f"page faults of a region cannot be handled: {error.strerror}"
            ) from error

    def detach(self) -> list[tuple[MemoryRegion, int]]:
        """The regions with their descriptors, which belong to the caller from now on."""
        detached = [(region, backing.fd) for region, backing in self._backing.items()]
        self._backing.clear()
        return detached

    def remove(self, region: MemoryRegion) -> None:
        """As `MemoryTable.remove`."""
        super().remove(region)
        for known in [known for known in self._backing if known[:3] == region[:3]]:
            os.close(self._backing.pop(known).fd)

    def close(self) -> None:
        """As `MemoryTable.close`."""
        super().close()
        close_all(backing.fd for _, backing in self._proposed)
        close_all(backing.fd for backing in self._backing.values())
        self._proposed.clear()
        self._backing.clear()

    def view(self, gpa: int, length: int) -> memoryview:
        """As `MemoryTable.view`.

        Raises:
            PagesMissing: pages have not arrived.
        """
        return self._present(super().view(gpa, length))

    def slices(self, gpa: int, length: int) -> list[memoryview]:
        """As `MemoryTable.slices`.

        Raises:
            PagesMissing: pages have not arrived.
        """
        return [self._present(piece) for piece in super().slices(gpa, length)]

    def user_view(self, user_addr: int, length: int) -> memoryview:
        """As `MemoryTable.user_view`.

        Raises:
            PagesMissing: pages have not arrived.
        """
        return self._present(super().user_view(user_addr, length))

    @property
    def array(self) -> None:
        """Compiled functions cannot tell which pages have arrived."""

    def _present(self, view: memoryview) -> memoryview:
        length = len(view)
        bytes_ = native.ffi.from_buffer(view)
        if length and not native.lib.vu_present(bytes_, length, mmap.PAGESIZE):
            raise PagesMissing(self._arrivals(view))
        return view

    def _arrivals(self, view: memoryview) -> memoryview:
        """The same bytes where threads wait for them."""
        address = native.address_of(view)
        for mapped in self._regions:
            offset = address - native.address_of(mapped.data)
            if 0 <= offset < len(mapped.data):
                return self._backing[mapped.region].arrivals.view[offset:][: len(view)]
        raise MemoryTableError("a view of memory that is not in the table")
