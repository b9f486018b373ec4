"""The back-end under test, as a case sees it: one connection, memory and rings.

A case may keep the rules (`ask`, `agree`, `start`) or break them (`wire`). All that it makes is
released when it ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhost_user.dirty_log import DirtyLog
from vhost_user.features import VHOST_F_LOG_ALL
from vhost_user.payloads import LogArea, VringAddr, VringState
from vhost_user_conformance.back_end.negotiation import PROTOCOL_BIT, F, Negotiation, u64
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.model.verdict import Failed, check, unsupported
from vhost_user_conformance.peer.device_work import (
    BlkWork,
    Job,
    RngWork,
    Work,
    check_random,
    least_rings,
    work_of,
)
from vhost_user_conformance.peer.memory import PAGE, Memory, TestRing
from vhost_user_conformance.peer.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user.features import Dialect
    from vhost_user_conformance.peer.program import PeerProgram
    from vhost_user_conformance.peer.wire import Wire

__all__ = ["LOG_ALL", "PROTOCOL_BIT", "BackEnd", "F", "u64", "vring"]

LOG_ALL = 1 << VHOST_F_LOG_ALL


def vring(index: int, num: int) -> bytes:
    """A vring state's bytes."""
    return VringState(index, num).pack()


class BackEnd(Negotiation):
    """One connection to the back-end under test, the argument of a case.

    Args:
        wire: connected.
        device: class of the device, or "" if it is unknown.
        dialect: which numbers it uses.
    """

    def __init__(self, wire: Wire, device: str, dialect: Dialect) -> None:
        super().__init__(wire, device, dialect)
        #: The program under test, where the suite has started it.
        self.program: PeerProgram | None = None
        #: Makes another connection to the same back-end, where the runner can.
        self.dial: Callable[[], Wire] | None = None
        self._started: dict[int, TestRing] = {}

    # -- memory and rings

    def memory(self, *sizes: int, offset: int = 0, share: bool = True) -> Memory:
        """Guest memory of these regions (4 MiB by default), shared by SET_MEM_TABLE."""
        memory = Memory(sizes, offset=offset) if sizes else Memory(offset=offset)
        self.own(memory.close)
        if share:
            self.share(memory)
        return memory

    def share(self, memory: Memory) -> None:
        """SET_MEM_TABLE, which must be accepted."""
        self.accepted(F.SET_MEM_TABLE, memory.table, fds=memory.fds)

    def shared(self, memory: Memory | None) -> Memory:
        """This memory, or new memory by default, shared by SET_MEM_TABLE."""
        if memory is None:
            return self.memory()
        self.share(memory)
        return memory

    def ring(
        self,
        memory: Memory,
        index: int = 0,
        size: int = 64,
        *,
        start: int = 0,
        event_idx: bool = False,
        region: int = 0,
        at_end: bool = False,
    ) -> TestRing:
        """A ring in memory, which the back-end does not know yet."""
        ring = TestRing(
            memory, index, size, start=start, event_idx=event_idx, region=region, at_end=at_end
        )
        self.own(ring.close)
        return ring

    def set_up(
        self,
        ring: TestRing,
        *,
        base: int | None = None,
        log: bool = False,
        amid: Callable[[], object] | None = None,
    ) -> None:
        """NUM, BASE, ADDR, KICK and CALL, in QEMU's order, without ENABLE.

        Args:
            ring: which.
            base: where it begins; its start by default.
            log: writes to the used ring are to be logged.
            amid: called before CALL is sent.
        """
        start = ring.start if base is None else base
        self.send(F.SET_VRING_NUM, vring(ring.index, ring.size))
        self.send(F.SET_VRING_BASE, vring(ring.index, start))
        self.send(F.SET_VRING_ADDR, self.address(ring, log=log))
        self.send(F.SET_VRING_KICK, u64(ring.index), fds=(ring.kick_fd,))
        if amid is not None:
            amid()
        self.send(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,))

    @staticmethod
    def address(ring: TestRing, *, log: bool = False) -> bytes:
        """SET_VRING_ADDR's payload."""
        return VringAddr(
            ring=ring.index,
            flags=int(log),
            desc=ring.desc + ring.user_offset,
            used=ring.used + ring.user_offset,
            avail=ring.avail + ring.user_offset,
            log=ring.used,
        ).pack()

    def enable(self, ring: TestRing, *, on: bool = True) -> None:
        """SET_VRING_ENABLE where bit 30 is acknowledged; else rings are enabled at their start."""
        if self.driver_features & PROTOCOL_BIT:
            self.send(F.SET_VRING_ENABLE, vring(ring.index, int(on)))

    def start(
        self,
        ring: TestRing,
        *,
        base: int | None = None,
        log: bool = False,
        amid: Callable[[], object] | None = None,
    ) -> None:
        """Set a ring up, enable it, and wait for a barrier. Arguments: `set_up`.

        A device with pairs of rings may not start before both are set up (as DPDK's vhost
        library): the other rings of the smallest set are started as well, empty.
        """
        self._started[ring.index] = ring
        least = least_rings(self.device)
        for index in range(min(least, self.rings)):
            if index not in self._started:
                other = self.ring(ring.memory, index, ring.size, region=ring.region)
                other.user_offset = ring.user_offset
                self.start(other)
        self.set_up(ring, base=base, log=log, amid=amid)
        self.enable(ring)
        self.barrier()

    def stop_all(self) -> None:
        """Disable and stop every ring that has been started, as a front-end does at a reset."""
        for ring in self._started.values():
            self.enable(ring, on=False)
            self.stop(ring)
        self._started.clear()

    def forget_rings(self) -> None:
        """All rings are in their initial state again: `start` begins with none."""
        self._started.clear()

    def stop(self, ring: TestRing, *, amid: Callable[[], object] | None = None) -> int:
        """Send GET_VRING_BASE; the base.

        Args:
            ring: which.
            amid: called when the back-end has read the header of the message only.

        Raises:
            Failed: the reply is about another ring, or has another size.
        """
        self.wire.send(F.GET_VRING_BASE, vring(ring.index, 0), amid=amid)
        reply = self.reply_to(F.GET_VRING_BASE)
        check(
            len(reply.payload) == 8,
            "8 bytes in the reply to GET_VRING_BASE",
            f"{len(reply.payload)} bytes",
        )
        state = VringState.unpack(reply.payload)
        check(state.ring == ring.index, f"a reply about ring {ring.index}", f"ring {state.ring}")
        return state.num

    def resume(self, ring: TestRing, base: int) -> None:
        """Start a ring that was stopped, and wait until its remaining requests are served.

        An unread kick from before the stop would start the ring before its call is set again.
        """
        ring.unkick()
        self.start(ring, base=base)
        ring.kick()
        self.await_used(ring, ring.avail_index)
        while ring.driver.pop() is not None:
            pass

    # -- work

    @property
    def work(self) -> Work:
        """Requests for this class of device.

        Raises:
            Unsupported: the class of device is unknown.
        """
        work = work_of(self.device)
        if work is None:
            unsupported("needs to know the device: use --device")
        return work

    @property
    def disk(self) -> BlkWork:
        """The same, of a disk."""
        work = self.work
        if not isinstance(work, BlkWork):
            unsupported("is about a disk")
        return work

    @property
    def entropy(self) -> RngWork:
        """The same, of an entropy device."""
        work = self.work
        if not isinstance(work, RngWork):
            unsupported("is about an entropy device")
        return work

    def working_ring(self, *names: str, size: int = 64, start: int = 0) -> TestRing:
        """Negotiate, share memory, and start the ring that takes requests."""
        work = self.work
        self.agree(*names)
        ring = self.ring(self.memory(), work.ring, size, start=start)
        self.start(ring)
        return ring

    def serve(self, ring: TestRing, *, kick: bool = True) -> Job:
        """Have the device serve the smallest request, and check the completion.

        Raises:
            Failed: it is not completed, or not correctly.
        """
        before = ring.used_index
        job = self.work.post(ring.memory, ring)
        if kick:
            ring.kick()
        self.await_used(ring, before + 1)
        self.completed(ring, job)
        return job

    def await_used(self, ring: TestRing, index: int) -> None:
        """Wait for the used index. Raises `Failed` when it does not become ``index``."""
        if not ring.await_used(index, self.timeout):
            raise Failed(
                f"ring {ring.index}'s used index to become {index & 0xFFFF}",
                f"it is {ring.used_index} after {self.timeout:g} s",
            )

    @staticmethod
    def completed(ring: TestRing, job: Job) -> None:
        """Take the completion, and check that it is that of the job. Raises `Failed`."""
        done = ring.driver.pop()
        if done is None:
            raise Failed("a completion in the used ring", "there is none")
        head, written = done
        check(head == job.head, f"the used element to have chain {job.head}", f"it has {head}")
        if job.written is not None:
            check(
                written == job.written,
                f"{job.written} bytes written in the used element",
                f"it has {written}",
            )
        if job.buffers:
            check_random(ring.memory, job, written)
        if job.status is not None:
            status = ring.memory.read(job.status, 1)[0]
            check(status == 0, "status 0 (VIRTIO_BLK_S_OK)", f"status {status}")

    def idle(self, ring: TestRing, *, index: int | None = None) -> None:
        """Check that the device does nothing on this ring for a while.

        Args:
            ring: which.
            index: its used index before requests were made available, as one that is completed at
                once would not be seen; by default the current one.

        Raises:
            Failed: the used index changes.
        """
        before = ring.used_index if index is None else index & 0xFFFF
        if ring.await_progress(before, QUIET):
            raise Failed(
                f"the used index of ring {ring.index} to stay at {before}",
                f"it became {ring.used_index}",
            )

    def ignored(self, ring: TestRing) -> None:
        """Make a request on a stopped ring, and check that the device does not serve it.

        Raises:
            Failed: it is served.
        """
        before = ring.used_index
        self.work.post(ring.memory, ring)
        ring.kick()
        self.idle(ring, index=before)

    def log(self, memory: Memory, *, offset: int = 0) -> DirtyLog:
        """Set a dirty log for all guest memory."""
        log = DirtyLog.create(-(-memory.end // PAGE))
        self.own(log.close)
        self.ask(F.SET_LOG_BASE, LogArea(log.size, offset).pack(), fds=(log.fd,))
        return log

    def check_responds(self, why: str) -> None:
        """Check that the back-end still replies.

        Raises:
            Failed: it does not.
        """
        try:
            self.barrier()
        except WireError as error:
            raise Failed(f"the connection to continue {why}", str(error)) from None

    def spare_fd(self) -> int:
        """An unused eventfd, which is closed after the case."""
        fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.own(lambda: os.close(fd))
        return fd

    def beside(self) -> BackEnd:
        """Another connection to the same back-end, which may not answer on it.

        Raises:
            Unsupported: another connection is not possible.
        """
        if self.dial is None:
            unsupported("is about several connections, and only this one is possible")
        other = BackEnd(self.dial(), self.device, self.dialect)
        other.program, other.dial = self.program, self.dial
        self.own(other.close)
        return other

    def again(self) -> BackEnd:
        """Disconnect; a new connection, on which the back-end has answered.

        Raises:
            Unsupported: the program ended with its front-end, which is allowed.
            Failed: it runs, and does not answer.
        """
        self.wire.leave(self.timeout)
        try:
            other = self.beside()
            other.barrier()
        except (WireError, PeerError) as error:
            if self.program is not None and self.program.ends_within(QUIET):
                unsupported("is about several connections, and the program ends with the first")
            raise Failed("the next connection to be answered", str(error)) from None
        return other
