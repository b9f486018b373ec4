"""The devices' notify addresses as a memory map, changed in transactions as in QEMU's memory API.

A *region* is the page of a device's notify addresses. Changes are made between `begin` and
`commit`, which nest; the outermost commit renders the list of **all** ioeventfds of the machine,
compares it with the list of assigned ones, and passes the difference to the listener (the
accelerator):
first those removed, then those added. So the time of a commit is proportional to the number of all
ioeventfds, however few have changed, and N commits of one notifier each take time proportional to
N^2. The counters show that.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from emu.machine.accel.base import NotifierError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from devices.notifiers import Ioeventfd

#: Bits of an address within a region: a device's notify addresses are one page.
REGION_SHIFT = 12


class Listener(Protocol):
    """Applies a commit's difference."""

    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """Deassign and assign all of these, or none. Raises `NotifierError`."""


def _unguarded() -> None:
    """The caller ensures that one thread at a time makes changes."""


class AddressSpace:
    """The ioeventfds of one machine.

    Args:
        listener: called with the difference at each commit.
        guard: called before anything is changed; raises when the caller does not hold the big
            lock. Without one the caller ensures that one thread at a time makes changes.

    Attributes:
        commits: outermost commits of transactions with at least one change.
        list_work: list entries that those commits rendered and compared, in total.
    """

    def __init__(self, listener: Listener, guard: Callable[[], None] = _unguarded) -> None:
        self.commits = 0
        self.list_work = 0
        self._listener = listener
        self._guard = guard
        self._depth = 0
        # The regions in address order, the ioeventfds of each sorted, so that the list of all is
        # their concatenation.
        self._bases: list[int] = []
        self._regions: dict[int, list[Ioeventfd]] = {}
        self._assigned: dict[tuple[int, int, int], Ioeventfd] = {}
        self._undo: list[tuple[bool, Ioeventfd]] = []
        self._current: set[Ioeventfd] = set()

    # -- transactions

    def begin(self) -> None:
        """Begin a transaction: the changes up to the outermost `commit` take effect together."""
        self._guard()
        self._depth += 1

    def commit(self) -> None:
        """End a transaction; the outermost one takes effect.

        Raises:
            NotifierError: from the listener; the transaction is undone.
        """
        self._guard()
        if not self._depth:
            raise NotifierError("a commit without a begin")
        if self._depth > 1:
            self._depth -= 1
            return
        try:
            if self._undo:
                self._update()
        except BaseException:
            self._restore()
            raise
        finally:
            self._undo.clear()
            self._depth = 0

    def rollback(self) -> None:
        """End all transactions and undo them."""
        self._guard()
        self._restore()
        self._undo.clear()
        self._depth = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """`begin` and `commit` around a ``with`` block; `rollback` if the block raises."""
        self.begin()
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    # -- changes

    def add(self, ioeventfd: Ioeventfd) -> None:
        """Assign an ioeventfd; a transaction of its own outside of one.

        Raises:
            NotifierError: one is assigned already for that address, size and datamatch.
        """
        with self._own_transaction():
            if _match(ioeventfd) in self._assigned:
                raise NotifierError(f"{ioeventfd} is assigned already", owner=ioeventfd.owner)
            self._insert(ioeventfd)
            self._undo.append((True, ioeventfd))

    def remove(self, ioeventfd: Ioeventfd) -> None:
        """Deassign an ioeventfd of any owner; a transaction of its own outside of one.

        Raises:
            NotifierError: it is not assigned, or is assigned with another eventfd.
        """
        with self._own_transaction():
            assigned = self._assigned.get(_match(ioeventfd))
            if assigned is None or assigned.fd != ioeventfd.fd:
                raise NotifierError(f"{ioeventfd} is not assigned", owner=ioeventfd.owner)
            self._delete(assigned)
            self._undo.append((False, assigned))

    @contextmanager
    def _own_transaction(self) -> Iterator[None]:
        self._guard()
        if self._depth:
            yield
        else:
            with self.transaction():
                yield

    def _insert(self, ioeventfd: Ioeventfd) -> None:
        base = ioeventfd.address >> REGION_SHIFT
        region = self._regions.get(base)
        if region is None:
            insort(self._bases, base)
            region = self._regions[base] = []
        insort(region, ioeventfd)
        self._assigned[_match(ioeventfd)] = ioeventfd

    def _delete(self, ioeventfd: Ioeventfd) -> None:
        base = ioeventfd.address >> REGION_SHIFT
        region = self._regions[base]
        del region[bisect_left(region, ioeventfd)]
        if not region:
            del self._regions[base]
            self._bases.remove(base)
        del self._assigned[_match(ioeventfd)]

    def _restore(self) -> None:
        for added, ioeventfd in reversed(self._undo):
            (self._delete if added else self._insert)(ioeventfd)

    # -- the commit

    def _render(self) -> list[Ioeventfd]:
        ioeventfds: list[Ioeventfd] = []
        for base in self._bases:
            ioeventfds += self._regions[base]
        return ioeventfds

    def _update(self) -> None:
        ioeventfds = self._render()
        old, new = self._current, set(ioeventfds)
        self.commits += 1
        self.list_work += len(ioeventfds) + len(old)
        self._listener.change_ioeventfds(sorted(old - new), sorted(new - old))
        self._current = new

    def __len__(self) -> int:
        """Number of ioeventfds that the listener has assigned."""
        return len(self._current)

    def ioeventfds(self) -> list[Ioeventfd]:
        """The ioeventfds that the listener has assigned, in address order."""
        return sorted(self._current)


def _match(ioeventfd: Ioeventfd) -> tuple[int, int, int]:
    """Address, size and datamatch: which writes it takes. No two ioeventfds have the same."""
    return ioeventfd[:3]
