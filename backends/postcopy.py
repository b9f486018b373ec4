"""The postcopy messages of one connection (PAGEFAULT), and what they do to the device's memory.

From POSTCOPY_LISTEN on, memory is a `FaultingTable`: the messages that bring memory are answered
with where it is mapped, and count when the front-end has said that it is ready. POSTCOPY_END has
everything mapped anew, without any watch on it.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import TYPE_CHECKING, cast

from backends.handlers import MAX_MEM_SLOTS
from vhost_user.errors import FrontendError
from vhost_user.memory import MemoryTable
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64, MemTable, SingleRegion
from vhost_user.postcopy import FaultingTable, Userfault

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.device import BackendDevice
    from backends.handlers import Handler
    from vhost_user.backend import BackendConnection
    from vhost_user.payloads import MemoryRegion

_F = FrontendRequest
log = logging.getLogger("backends")


class Postcopy:
    """The postcopy of one connection.

    Args:
        device: whose memory it is.
        connection: where replies go.
        table: the connection's handlers; those that bring memory are others during postcopy.
        lent: takes descriptors that go with replies, which are to be closed when they have gone.
        memory_changed: called when memory is another one.
    """

    def __init__(
        self,
        device: BackendDevice,
        connection: BackendConnection,
        table: dict[int, Handler],
        lent: list[int],
        memory_changed: Callable[[], None],
    ) -> None:
        self._device = device
        self._connection = connection
        self._table = table
        self._lent = lent
        self._memory_changed = memory_changed
        self._usual: dict[int, Handler] = {}
        self._faults: Userfault | None = None
        self._memory: FaultingTable | None = None
        self._watcher: threading.Thread | None = None
        self._end_fd = -1
        table[_F.POSTCOPY_ADVISE] = self._advise
        table[_F.POSTCOPY_LISTEN] = self._listen
        table[_F.POSTCOPY_END] = self._end

    def give_up(self) -> None:
        """From any thread: wait for no page any more."""
        faults = self._faults
        if faults is not None:
            faults.give_up()

    def close(self) -> None:
        """The front-end has gone: nobody brings pages."""
        if self._watcher is not None:
            os.eventfd_write(self._end_fd, 1)
            self._watcher.join()
            self._watcher = None
            os.close(self._end_fd)
        if self._faults is not None:
            self._faults.close()
            self._faults = None

    def _advise(self, request: Request) -> bool:
        if self._memory is not None:
            raise FrontendError("pages are listened for already")
        self.close()
        try:
            self._faults = Userfault()
        except OSError as error:
            # Its front-end sees that none came; nobody broke a rule.
            log.warning("%s: no postcopy: %s", self._device.name, error.strerror)
            self._connection.reply(request)
        else:
            fd = os.dup(self._faults.fd)
            self._connection.reply(request, None, (fd,))
            self._lent.append(fd)
        return True

    def _listen(self, request: Request) -> bool:
        faults = self._faults
        if faults is None:
            raise FrontendError("comes before POSTCOPY_ADVISE")
        if self._memory is not None or self._device.memory.regions:
            raise FrontendError("comes when there is memory, or comes twice")
        self._memory = FaultingTable(faults)
        self._device.use_memory(self._memory)
        handlers: dict[int, Handler] = {
            _F.SET_MEM_TABLE: self._set_mem_table,
            _F.ADD_MEM_REG: self._add_mem_reg,
        }
        self._usual = {number: self._table[number] for number in handlers}
        self._table.update(handlers)
        self._watch_front_end(faults)
        self._connection.reply(request, U64(0))
        return True

    def _end(self, request: Request) -> bool:
        memory = self._memory
        if memory is None:
            raise FrontendError("comes before POSTCOPY_LISTEN")
        self.close()
        settled = memory.settle()
        self._memory = None
        self._table.update(self._usual)
        self._device.use_memory(MemoryTable())
        regions, fds = [region for region, _ in settled], [fd for _, fd in settled]
        self._device.memory.replace(regions, fds)
        self._memory_changed()
        self._connection.reply(request, U64(0))
        return True

    # Memory

    def _set_mem_table(self, request: Request) -> bool | None:
        if isinstance(request.payload, U64):
            self._go_ahead(request.payload)
            return None
        regions = cast("MemTable", request.payload).regions
        placed = self._propose(regions, request.fds, replace=True)
        self._connection.reply(request, MemTable(tuple(placed)))
        return True

    def _add_mem_reg(self, request: Request) -> bool | None:
        if isinstance(request.payload, U64):
            self._go_ahead(request.payload)
            return None
        region = cast("SingleRegion", request.payload).region
        if cast("FaultingTable", self._memory).slots >= MAX_MEM_SLOTS:
            self._device.retire_fds(request.fds)
            raise FrontendError(f"there are only {MAX_MEM_SLOTS} slots")
        placed = self._propose((region,), request.fds, replace=False)
        self._connection.reply(request, SingleRegion(placed[0]))
        return True

    def _propose(
        self, regions: tuple[MemoryRegion, ...], fds: tuple[int, ...], *, replace: bool
    ) -> list[MemoryRegion]:
        """The regions as they are told to the front-end: with the addresses that they have here."""
        bases = cast("FaultingTable", self._memory).propose(regions, fds, replace=replace)
        pairs = zip(regions, bases, strict=True)
        return [region._replace(user_addr=base) for region, base in pairs]

    def _go_ahead(self, word: U64) -> None:
        if word.value:
            raise FrontendError(f"{word.value:#x} instead of a go-ahead")
        cast("FaultingTable", self._memory).go_ahead()
        self._memory_changed()

    # A front-end that dies

    def _watch_front_end(self, faults: Userfault) -> None:
        """The loop may wait for a page when the front-end dies: somebody else has to notice."""
        self._end_fd = os.eventfd(0, os.EFD_CLOEXEC)
        socket_fd = os.dup(self._connection.fileno())
        self._watcher = threading.Thread(
            target=_give_up_at_the_end,
            args=(socket_fd, self._end_fd, faults),
            name=f"postcopy-{self._device.name}",
            daemon=True,
        )
        self._watcher.start()


def _give_up_at_the_end(socket_fd: int, end_fd: int, faults: Userfault) -> None:
    """Waits for as long as there is a connection, and never longer than postcopy lasts."""
    poll = select.poll()
    poll.register(socket_fd, select.POLLRDHUP)
    poll.register(end_fd, select.POLLIN)
    poll.poll()
    faults.give_up()
    os.close(socket_fd)
