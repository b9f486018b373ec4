"""The guest's doorbells as a memory map, changed in transactions, as QEMU's memory API does it.

A *region* is a device's window of doorbells. Changes are made between `begin` and `commit`, which
nest; the outermost commit renders the list of **all** ioeventfds of the machine, compares it with
the list that is in force, and tells the listener (the accelerator) the difference: first what goes,
then what comes. So a commit costs in proportion to all ioeventfds, however few have changed, and a
commit for each of N notifiers costs N^2. The counters make that visible.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from emu.machine.accel.base import Ioeventfd, NotifierError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

#: Bits of an address within a region: a device's window of doorbells is one page.
REGION_SHIFT = 12
_ANY = -1
#: address, size, datamatch or _ANY, fd: the order in which the list is kept.
_Entry = tuple[int, int, int, int]


class Listener(Protocol):
    """Whoever carries the ioeventfds out."""

    def change_ioeventfds(self, remove: Sequence[Ioeventfd], add: Sequence[Ioeventfd]) -> None:
        """All or nothing. Raises `NotifierError`."""


def _nothing() -> None:
    """There is no guard."""


class AddressSpace:
    """The ioeventfds of one machine.

    Args:
        listener: told the difference at each commit.
        guard: called before anything is changed; raises when the caller may not (it must hold the
            big lock). Without one the caller sees to it that there is one thread at a time.

    Attributes:
        commits: outermost commits that had something to do.
        list_work: list entries that those commits rendered and compared, all together.
    """

    def __init__(self, listener: Listener, guard: Callable[[], None] = _nothing) -> None:
        self.commits = 0
        self.list_work = 0
        self._listener = listener
        self._guard = guard
        self._depth = 0
        # The regions in address order, the entries of each sorted, so that the list of all is
        # their concatenation.
        self._bases: list[int] = []
        self._regions: dict[int, list[_Entry]] = {}
        self._fds: dict[tuple[int, int, int], int] = {}
        self._owners: dict[_Entry, str] = {}
        self._undo: list[tuple[bool, _Entry]] = []
        self._in_force: set[_Entry] = set()

    # -- transactions

    def begin(self) -> None:
        """Changes from here on are committed together."""
        self._guard()
        self._depth += 1

    def commit(self) -> None:
        """End a transaction; the outermost one takes effect.

        Raises:
            NotifierError: the listener refused; nothing of the transaction remains.
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
        """End all transactions; nothing of them remains."""
        self._guard()
        self._restore()
        self._undo.clear()
        self._depth = 0

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """`begin` and `commit` around a block; `rollback` when it raises."""
        self.begin()
        try:
            yield
        except BaseException:
            self.rollback()
            raise
        self.commit()

    # -- changes

    def add_ioeventfd(
        self, address: int, size: int, datamatch: int | None, fd: int, owner: str = ""
    ) -> None:
        """Assign an ioeventfd; a transaction of its own outside of one.

        Args:
            address: guest-physical address of the doorbell.
            size: bytes of the write that matches, 0 for any.
            datamatch: the value that matches, None for any.
            fd: the eventfd.
            owner: who wants it; for errors.

        Raises:
            NotifierError: that doorbell has an ioeventfd already.
        """
        with self._own_transaction():
            entry = (address, size, _ANY if datamatch is None else datamatch, fd)
            if entry[:3] in self._fds:
                raise NotifierError(f"{_public(entry)} is assigned already", owner=owner)
            self._owners[entry] = owner
            self._insert(entry)
            self._undo.append((True, entry))

    def del_ioeventfd(
        self, address: int, size: int, datamatch: int | None, fd: int, owner: str = ""
    ) -> None:
        """Take an ioeventfd away; a transaction of its own outside of one.

        Raises:
            NotifierError: that doorbell does not have this ioeventfd.
        """
        with self._own_transaction():
            entry = (address, size, _ANY if datamatch is None else datamatch, fd)
            if self._fds.get(entry[:3]) != fd:
                raise NotifierError(f"{_public(entry)} is not assigned", owner=owner)
            self._remove(entry)
            self._undo.append((False, entry))

    @contextmanager
    def _own_transaction(self) -> Iterator[None]:
        self._guard()
        if self._depth:
            yield
        else:
            with self.transaction():
                yield

    def _insert(self, entry: _Entry) -> None:
        base = entry[0] >> REGION_SHIFT
        region = self._regions.get(base)
        if region is None:
            insort(self._bases, base)
            region = self._regions[base] = []
        insort(region, entry)
        self._fds[entry[:3]] = entry[3]

    def _remove(self, entry: _Entry) -> None:
        base = entry[0] >> REGION_SHIFT
        region = self._regions[base]
        del region[bisect_left(region, entry)]
        if not region:
            del self._regions[base]
            self._bases.remove(base)
        del self._fds[entry[:3]]

    def _restore(self) -> None:
        for added, entry in reversed(self._undo):
            (self._remove if added else self._insert)(entry)

    # -- the commit

    def _render(self) -> list[_Entry]:
        entries: list[_Entry] = []
        for base in self._bases:
            entries += self._regions[base]
        return entries

    def _update(self) -> None:
        entries = self._render()
        old, new = self._in_force, set(entries)
        self.commits += 1
        self.list_work += len(entries) + len(old)
        remove, add = old - new, new - old
        owners = self._owners
        self._listener.change_ioeventfds(
            [_public(entry, owners[entry]) for entry in sorted(remove)],
            [_public(entry, owners[entry]) for entry in sorted(add)],
        )
        self._in_force = new
        for entry in remove:
            del owners[entry]

    def __len__(self) -> int:
        """The ioeventfds that are in force."""
        return len(self._in_force)

    def ioeventfds(self) -> list[Ioeventfd]:
        """Those that are in force, in address order."""
        return [_public(entry, self._owners[entry]) for entry in sorted(self._in_force)]


def _public(entry: _Entry, owner: str = "") -> Ioeventfd:
    address, size, datamatch, fd = entry
    return Ioeventfd(address, size, None if datamatch == _ANY else datamatch, fd, owner)
