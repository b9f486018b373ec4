"""The interface of a case to the back-end under test: one connection, memory and rings.

A case that keeps the protocol uses the methods (`negotiate`, `start`, `ask`); one that breaks it
sends bytes with `wire`. Memory, rings and descriptors that a case makes are released when it ends.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhost_user.dirty_log import DirtyLog
from vhost_user.features import VHOST_F_LOG_ALL
from vhost_user.payloads import LogArea, VringAddr, VringState
from vhost_user_conformance.back_end.negotiation import PROTOCOL_BIT, F, Negotiation, u64
from vhost_user_conformance.back_end.requests import QUIET, first_answer
from vhost_user_conformance.errors import PeerError
from vhost_user_conformance.model.verdict import Failed, Severity, check, observed, unsupported
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
from vhost_user_conformance.peer.wire import Closed, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user.features import Dialect
    from vhost_user_conformance.peer.program import PeerProgram
    from vhost_user_conformance.peer.wire import Wire

__all__ = [
    "LOG_ALL",
    "PROTOCOL_BIT",
    "BackEnd",
    "F",
    "severity_of_size",
    "u64",
    "vring_state",
]

#: Descriptors of a ring that each front-end in use may ask for; the specification has no limit.
USUAL_SIZE = 256
LOG_ALL = 1 << VHOST_F_LOG_ALL


def vring_state(index: int, num: int) -> bytes:
    """The payload of a message with a ring's index and a number (struct vhost_vring_state)."""
    return VringState(index, num).pack()


def severity_of_size(size: int) -> Severity:
    """How much it matters that a ring of this size serves."""
    return Severity.MUST if size <= USUAL_SIZE else Severity.SHOULD


class BackEnd(Negotiation):
    """One connection to the back-end under test, the argument of a case.

    Args:
        wire: connected.
        device: class of the device, or "" if it is unknown.
        dialect: numbers the features and messages that the specification does not number yet.
    """

    def __init__(self, wire: Wire, device: str, dialect: Dialect) -> None:
        super().__init__(wire, device, dialect)
        #: The program under test; None if the suite has not started it.
        self.program: PeerProgram | None = None
        #: Opens another connection to the same back-end; None if that is not possible.
        self.open_wire: Callable[[], Wire] | None = None
        #: The program answers one connection only, and runs on.
        self.serves_one = False
        #: By index: the rings that `start` has started.
        self._started: dict[int, TestRing] = {}

    # -- memory and rings

    def memory(self, *sizes: int, offset: int = 0, share: bool = True) -> Memory:
        """New guest memory with regions of these sizes, by default one of 4 MiB.

        Args:
            sizes: bytes of each region.
            offset: where each region begins in its file.
            share: send SET_MEM_TABLE.
        """
        memory = Memory(sizes, offset=offset) if sizes else Memory(offset=offset)
        self.own(memory.close)
        if share:
            self.share(memory)
        return memory

    def share(self, memory: Memory) -> None:
        """Send SET_MEM_TABLE, and check that it is accepted."""
        self.accepted(F.SET_MEM_TABLE, memory.table, fds=memory.fds)

    def shared(self, memory: Memory | None) -> Memory:
        """Share this memory, or new memory if it is None, by SET_MEM_TABLE; return it."""
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
        """Make a ring in memory; nothing is sent. The arguments are those of `TestRing`."""
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
        before_call: Callable[[], object] | None = None,
    ) -> None:
        """Send NUM, BASE, ADDR, KICK and CALL, in QEMU's order, without ENABLE.

        Args:
            ring: the ring.
            base: the payload of SET_VRING_BASE; by default the initial index of the ring.
            log: writes to the used ring are to be logged.
            before_call: called between KICK and CALL.
        """
        base = ring.start if base is None else base
        self._set_size(ring)
        self.send(F.SET_VRING_BASE, vring_state(ring.index, base))
        self.send(F.SET_VRING_ADDR, self.address(ring, log=log))
        self.send(F.SET_VRING_KICK, u64(ring.index), fds=(ring.kick_fd,))
        if before_call is not None:
            before_call()
        self.send(F.SET_VRING_CALL, u64(ring.index), fds=(ring.call_fd,))

    def _set_size(self, ring: TestRing) -> None:
        """Send SET_VRING_NUM.

        Raises:
            Observed: it is refused, and the ring is large: a back-end may have a limit.
        """
        size = vring_state(ring.index, ring.size)
        if ring.size <= USUAL_SIZE:
            self.send(F.SET_VRING_NUM, size)
            return
        try:
            self.accepted(F.SET_VRING_NUM, size)
        except (Failed, Closed) as error:
            observed(f"a ring of {ring.size} descriptors is refused: {error}")

    @staticmethod
    def address(ring: TestRing, *, log: bool = False) -> bytes:
        """The payload of SET_VRING_ADDR."""
        return VringAddr(
            ring=ring.index,
            flags=int(log),
            desc=ring.desc + ring.user_offset,
            used=ring.used + ring.user_offset,
            avail=ring.avail + ring.user_offset,
            log=ring.used,
        ).pack()

    def enable(self, ring: TestRing, *, on: bool = True) -> None:
        """Send SET_VRING_ENABLE if bit 30 is acknowledged; without it all rings are enabled."""
        if self.driver_features & PROTOCOL_BIT:
            self.send(F.SET_VRING_ENABLE, vring_state(ring.index, int(on)))

    def start(
        self,
        ring: TestRing,
        *,
        base: int | None = None,
        log: bool = False,
        before_call: Callable[[], object] | None = None,
    ) -> None:
        """Set a ring up, enable it, and await a `barrier`. The arguments are those of `set_up`.

        A back-end may wait until all rings that its class of device needs are set up, as DPDK's
        vhost library does with the two rings of a NIC. So those that are missing are started too,
        without requests.
        """
        self._started[ring.index] = ring
        least = least_rings(self.device)
        for index in range(min(least, self.rings)):
            if index not in self._started:
                other = self.ring(ring.memory, index, ring.size, region=ring.region)
                other.user_offset = ring.user_offset
                self.start(other)
        self.set_up(ring, base=base, log=log, before_call=before_call)
        self.enable(ring)
        self.barrier()

    def stop_all(self) -> None:
        """Disable and stop every ring that has been started, as a front-end does at a reset."""
        for ring in self._started.values():
            self.enable(ring, on=False)
            self.stop(ring)
        self._started.clear()

    def forget_rings(self) -> None:
        """Call it when the back-end has been reset: no ring is started any more."""
        self._started.clear()

    def stop(
        self,
        ring: TestRing,
        *,
        by: F = F.GET_VRING_BASE,
        after_header: Callable[[], object] | None = None,
    ) -> int:
        """Stop a ring; return the base.

        Args:
            ring: the ring.
            by: GET_VRING_BASE, or GET_VRING_BASE_SKIP_DRAIN where it was negotiated.
            after_header: called when the back-end has read the message's header, before the
                payload is sent.

        Raises:
            Failed: the reply is about another ring, or has another size.
        """
        self.wire.send(by, vring_state(ring.index, 0), after_header=after_header)
        reply = self.reply_to(by)
        check(
            len(reply.payload) == 8,
            f"8 bytes in the reply to {by.name}",
            f"{len(reply.payload)} bytes",
        )
        state = VringState.unpack(reply.payload)
        check(state.ring == ring.index, f"a reply about ring {ring.index}", f"ring {state.ring}")
        return state.num

    def resume(self, ring: TestRing, base: int) -> None:
        """Start a stopped ring from ``base``, and wait until all its requests are completed."""
        # A kick that the back-end has not read would start the ring before CALL is set.
        ring.unkick()
        self.start(ring, base=base)
        ring.kick()
        self.await_used(ring, ring.avail_index)
        while ring.driver.pop() is not None:
            pass

    # -- work

    @property
    def work(self) -> Work:
        """The `Work` of this class of device, which makes requests.

        Raises:
            Unsupported: the class of device is unknown.
        """
        work = work_of(self.device)
        if work is None:
            unsupported("needs to know the device: use --device")
        return work

    @property
    def disk(self) -> BlkWork:
        """`work`, for a disk. Raises `Unsupported` for another class of device."""
        work = self.work
        if not isinstance(work, BlkWork):
            unsupported("is about a disk")
        return work

    @property
    def entropy(self) -> RngWork:
        """`work`, for an entropy device. Raises `Unsupported` for another class of device."""
        work = self.work
        if not isinstance(work, RngWork):
            unsupported("is about an entropy device")
        return work

    def working_ring(self, *names: str, size: int = 64, start: int = 0) -> TestRing:
        """Negotiate, share memory, and start the ring that takes requests.

        Args:
            names: protocol features to negotiate, as of `negotiate`.
            size: descriptors of the ring.
            start: the initial index of the ring.
        """
        work = self.work
        self.negotiate(*names)
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
        self.check_completed(ring, job)
        return job

    def await_used(self, ring: TestRing, index: int) -> None:
        """Wait until the used index is ``index``. Raises `Failed` after the timeout."""
        limit = self.wire.limit()
        while not ring.await_used(index, limit.left):
            if limit.over:
                raise Failed(
                    f"ring {ring.index}'s used index to become {index & 0xFFFF}",
                    f"it is {ring.used_index} after {limit.seconds:.3g} s",
                )

    @staticmethod
    def check_completed(ring: TestRing, job: Job) -> None:
        """Check that the next used element completes this job. Raises `Failed` if not."""
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

    def check_idle(self, ring: TestRing, *, index: int | None = None) -> None:
        """Check that the device completes no request of this ring within `QUIET` seconds.

        Args:
            ring: the ring.
            index: the used index that is to stay; by default the current one. A caller that has
                made requests available passes the index from before that: one of them may have
                been completed already.

        Raises:
            Failed: the used index changes.
        """
        before = ring.used_index if index is None else index & 0xFFFF
        if ring.await_progress(before, QUIET):
            raise Failed(
                f"the used index of ring {ring.index} to stay at {before}",
                f"it became {ring.used_index}",
            )

    def check_ignored(self, ring: TestRing) -> None:
        """Make a request on a stopped ring, and check that the device does not serve it.

        Raises:
            Failed: it is served.
        """
        before = ring.used_index
        self.work.post(ring.memory, ring)
        ring.kick()
        self.check_idle(ring, index=before)

    def log(self, memory: Memory, *, offset: int = 0) -> DirtyLog:
        """Send SET_LOG_BASE with a new dirty log for all guest memory.

        Args:
            memory: the guest memory.
            offset: the log's offset in the payload of SET_LOG_BASE.
        """
        log = DirtyLog.create(-(-memory.end // PAGE))
        self.own(log.close)
        self.ask(F.SET_LOG_BASE, LogArea(log.size, offset).pack(), fds=(log.fd,))
        return log

    def check_responds(self, why: str) -> None:
        """Check that the back-end still replies.

        Args:
            why: ends the expectation "the connection to continue ..." of the failure.

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

    def connect_another(self) -> BackEnd:
        """Open another connection to the same back-end, which may not reply on it.

        Raises:
            Unsupported: another connection is not possible.
        """
        return self._on_another(self._connects())

    def _connects(self) -> Callable[[], Wire]:
        """`open_wire`. Raises `Unsupported` where another connection is not possible."""
        if self.open_wire is None or self.serves_one:
            unsupported("is about several connections, and only this one is possible")
        return self.open_wire

    def _on_another(self, connects: Callable[[], Wire]) -> BackEnd:
        other = BackEnd(connects(), self.device, self.dialect)
        other.program, other.open_wire = self.program, self.open_wire
        self.own(other.close)
        return other

    def reconnect(self) -> BackEnd:
        """Disconnect, and return a new connection on which the back-end has replied.

        Raises:
            Unsupported: the program has ended with the connection, which is allowed.
            Failed: the program runs and does not reply.
        """
        opened = self._connects()
        self.wire.leave(self.timeout)

        def ended() -> bool:
            return self.program is not None and self.program.ends_within(0.0)

        try:
            return self._on_another(lambda: first_answer(opened, ended, self.timeout))
        except (WireError, PeerError) as error:
            if self.program is not None and self.program.ends_within(QUIET):
                unsupported("is about several connections, and the program ends with the first")
            raise Failed("the next connection to be answered", str(error)) from None
