"""The postcopy messages of one connection (PAGEFAULT), and what they do to the device's memory.

From POSTCOPY_LISTEN on, memory is a `FaultingTable`: the replies to messages that bring memory
contain the addresses where it is mapped, and it is used after the front-end's go-ahead.
POSTCOPY_END has everything mapped again, without userfaultfd.
"""

from __future__ import annotations

import logging
import os
import select
import threading
from typing import TYPE_CHECKING, cast

from backends.limits import MAX_MEM_SLOTS
from vhost_user.errors import FrontendError
from vhost_user.memory import MemoryTable
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64, MemTable, SingleRegion
from vhost_user.postcopy import FaultingTable, PageFaults

if TYPE_CHECKING:
    from backends.device import BackendDevice
    from backends.handlers import Handler, Handlers
    from vhost_user.backend import BackendConnection
    from vhost_user.payloads import MemoryRegion

_F = FrontendRequest
log = logging.getLogger("backends")


class Postcopy:
    """The postcopy of one connection.

    Args:
        device: the device whose memory it is.
        connection: where replies go.
        usual: serves the messages that bring memory, while no postcopy goes on.
    """

    def __init__(
        self, device: BackendDevice, connection: BackendConnection, usual: Handlers
    ) -> None:
        self._device = device
        self._connection = connection
        self._usual = usual
        self._faults: PageFaults | None = None
        self._memory: FaultingTable | None = None
        self._watcher: threading.Thread | None = None
        self._end_fd = -1

    def handlers(self) -> dict[int, Handler]:
        """The postcopy messages, and those that bring memory: these go to `usual` otherwise."""
        return {
            _F.POSTCOPY_ADVISE: self._advise,
            _F.POSTCOPY_LISTEN: self._listen,
            _F.POSTCOPY_END: self._end,
            _F.SET_MEM_TABLE: self._set_mem_table,
            _F.ADD_MEM_REG: self._add_mem_reg,
        }

    def give_up(self) -> None:
        """From any thread: do not wait for pages any more."""
        faults = self._faults
        if faults is not None:
            faults.give_up()

    def close(self) -> None:
        """The front-end has disconnected: no more pages come."""
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
            raise FrontendError("POSTCOPY_LISTEN came already")
        self.close()
        try:
            self._faults = PageFaults()
        except OSError as error:
            # The front-end sees that the reply has no descriptor; no rule was broken.
            log.warning("%s: no postcopy: %s", self._device.name, error.strerror)
            self._connection.reply(request)
        else:
            self._usual.reply_with_fd(request, None, os.dup(self._faults.arrivals.fd))
        return True

    def _listen(self, request: Request) -> bool:
        faults = self._faults
        if faults is None:
            raise FrontendError("comes before POSTCOPY_ADVISE")
        if self._memory is not None or self._device.memory.regions:
            raise FrontendError("comes when there is memory, or comes twice")
        self._memory = FaultingTable(faults)
        self._device.use_table(self._memory)
        self._watch_front_end(faults)
        self._connection.reply(request, U64(0))
        return True

    def _end(self, request: Request) -> bool:
        memory = self._memory
        if memory is None:
            raise FrontendError("comes before POSTCOPY_LISTEN")
        self.close()
        settled = memory.detach()
        self._memory = None
        self._device.use_table(MemoryTable())
        regions, fds = [region for region, _ in settled], [fd for _, fd in settled]
        self._device.memory.replace(regions, fds)
        self._usual.memory_changed()
        self._connection.reply(request, U64(0))
        return True

    # Memory

    def _set_mem_table(self, request: Request) -> bool | None:
        memory = self._memory
        if memory is None:
            self._usual.set_mem_table(request)
            return None
        if isinstance(request.payload, U64):
            self._go_ahead(memory, request.payload)
            return None
        regions = cast("MemTable", request.payload).regions
        placed = self._propose(memory, regions, request.fds, replace=True)
        self._connection.reply(request, MemTable(tuple(placed)))
        return True

    def _add_mem_reg(self, request: Request) -> bool | None:
        memory = self._memory
        if memory is None:
            self._usual.add_mem_reg(request)
            return None
        if isinstance(request.payload, U64):
            self._go_ahead(memory, request.payload)
            return None
        region = cast("SingleRegion", request.payload).region
        if memory.slots >= MAX_MEM_SLOTS:
            self._device.close_later(request.fds)
            raise FrontendError(f"there are only {MAX_MEM_SLOTS} slots")
        placed = self._propose(memory, (region,), request.fds, replace=False)
        self._connection.reply(request, SingleRegion(placed[0]))
        return True

    @staticmethod
    def _propose(
        memory: FaultingTable,
        regions: tuple[MemoryRegion, ...],
        fds: tuple[int, ...],
        *,
        replace: bool,
    ) -> list[MemoryRegion]:
        """The regions as the reply has them: with the addresses where they are mapped here."""
        bases = memory.propose(regions, fds, replace=replace)
        pairs = zip(regions, bases, strict=True)
        return [region._replace(user_addr=base) for region, base in pairs]

    def _go_ahead(self, memory: FaultingTable, word: U64) -> None:
        if word.value:
            raise FrontendError(f"{word.value:#x} instead of a go-ahead")
        memory.commit()
        self._usual.memory_changed()

    # A front-end that dies

    def _watch_front_end(self, faults: PageFaults) -> None:
        """Watch the socket in a thread: the loop may wait for a page when the front-end ends."""
        self._end_fd = os.eventfd(0, os.EFD_CLOEXEC)
        socket_fd = os.dup(self._connection.fileno())
        self._watcher = threading.Thread(
            target=_give_up_at_the_end,
            args=(socket_fd, self._end_fd, faults),
            name=f"postcopy-{self._device.name}",
            daemon=True,
        )
        self._watcher.start()


def _give_up_at_the_end(socket_fd: int, end_fd: int, faults: PageFaults) -> None:
    """Waits until the connection or the postcopy ends."""
    poll = select.poll()
    poll.register(socket_fd, select.POLLRDHUP)
    poll.register(end_fd, select.POLLIN)
    poll.poll()
    faults.give_up()
    os.close(socket_fd)
