"""Replays the script of a front-end to a back-end, and keeps the data from its replies."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vhost_user.codec import NEED_REPLY, REPLY, VERSION
from vhost_user.dirty_log import DirtyLog
from vhost_user.features import VIRTIO_F_VERSION_1
from vhost_user.payloads import Config, Inflight, LogArea, SingleRegion, VringState
from vhost_user_conformance.back_end.connection import (
    LOG_ALL,
    PROTOCOL_BIT,
    BackEnd,
    u64,
    vring_state,
)
from vhost_user_conformance.back_end.script import EVERY, NOTHING, USED, F, P, answered, messages_of
from vhost_user_conformance.model.verdict import check, unsupported
from vhost_user_conformance.peer.memory import PAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vhost_user_conformance.back_end.script import (
        Part,
        Script,
        ScriptMessage,
        Step,
    )
    from vhost_user_conformance.peer.memory import Memory, TestRing
    from vhost_user_conformance.peer.wire import Message

#: Payload and descriptors of a message.
Content = tuple[bytes, tuple[int, ...]]
#: Rings of a device that its guest uses, and further rings, as far as the back-end has them.
_USED_RINGS, _MORE_RINGS = 2, 1


class Replay:
    """One back-end, one front-end.

    Args:
        be: connected, no message was sent yet.
        script: what is replayed.
        also: protocol features to acknowledge besides the script's.
        source: the replay that the VM is migrated from, with memory and rings; None for a new VM.

    Attributes:
        memory: of the guest.
        rings: that it uses.
        bases: of its rings, as far as they were stopped.
    """

    def __init__(
        self, be: BackEnd, script: Script, also: P = NOTHING, source: Replay | None = None
    ) -> None:
        self.be = be
        self.script = script
        self.memory: Memory = be.memory(share=False) if source is None else source.memory
        self.rings: dict[int, TestRing] = {} if source is None else source.rings
        self.bases: dict[int, int] = {} if source is None else source.bases
        self._knows = script.knows | also
        self._inflight: Message | None = None
        self._contents: dict[F, Callable[[Step], Content]] = {
            F.SET_FEATURES: self._features,
            F.SET_PROTOCOL_FEATURES: self._protocol,
            F.SET_MEM_TABLE: self._table,
            F.GET_CONFIG: self._config,
            F.SET_BACKEND_REQ_FD: self._channel,
            F.SET_LOG_BASE: self._log_base,
            F.GET_INFLIGHT_FD: self._get_inflight,
            F.SET_INFLIGHT_FD: self._set_inflight,
            F.SET_STATUS: self._status,
        }
        self._on_reply: dict[F, Callable[[Message], None]] = {
            F.GET_FEATURES: self._learn_features,
            F.GET_PROTOCOL_FEATURES: self._learn_protocol,
            F.GET_QUEUE_NUM: self._learn_rings,
            F.GET_INFLIGHT_FD: self._learn_inflight,
            F.GET_VRING_BASE: self._learn_base,
        }

    @property
    def working(self) -> TestRing:
        """The ring that takes requests."""
        return self.rings[self.be.work.ring]

    # -- acts

    def setup(self) -> None:
        """Send the messages after a connect.

        Raises:
            Unsupported: the front-end would disconnect, or does not drive such a device.
        """
        if self.be.device not in self.script.drives:
            unsupported(f"{self.script.name} does not drive a {self.be.device_class.title}")
        self._send_all(self.script.setup)
        missing = self.script.requires & ~self.be.acked
        if missing:
            unsupported(f"{self.script.name} disconnects without {missing.name}")

    def start(self) -> None:
        """Start the rings for the first time on this connection."""
        self._send_all(self.script.start)
        self.be.barrier()

    def restart(self) -> None:
        """Start the rings again after a stop."""
        if self.script.renews:
            self.bases.clear()
            self.rings = {index: self.be.ring(self.memory, index) for index in self.rings}
        self._send_all(self.script.restart)
        self.be.barrier()

    def stop(self) -> int:
        """Stop all rings; the base of the one that takes requests."""
        self._send_all(self.script.stop)
        return self.bases[self.be.work.ring]

    def log(self) -> None:
        """Start logging of dirty memory."""
        self._send_all(self.script.log)
        self.be.barrier()

    def unlog(self) -> None:
        """Stop logging."""
        self._send_all(self.script.unlog)
        self.be.barrier()

    # -- sending

    def _ring_numbers(self) -> dict[str, Sequence[int]]:
        smallest = self.be.work.rings
        used = max(smallest, self.script.least, min(_USED_RINGS, self.be.rings))
        # A device with pairs of rings has no single further one.
        more = 0 if smallest > 1 else _MORE_RINGS
        return {USED: range(used), EVERY: range(max(used, min(used + more, self.be.rings)))}

    def _send_all(self, parts: Sequence[Part]) -> None:
        for part in parts:
            # Each part by itself: the possible messages depend on the replies before it.
            numbers = self._ring_numbers()
            for index in numbers[USED]:
                if index not in self.rings:
                    self.rings[index] = self.be.ring(self.memory, index)
            bit_30 = bool(self.be.features & PROTOCOL_BIT)
            for planned in list(
                messages_of([part], numbers, negotiated=self.be.acked, bit_30=bit_30)
            ):
                self._send_planned(planned)

    def _send_planned(self, planned: ScriptMessage) -> None:
        number = planned.step.id
        if number is F.SET_INFLIGHT_FD and not (self._inflight and self._inflight.fds):
            return  # there is no region to pass back
        if number is F.ADD_MEM_REG:
            for region in self.memory.regions:
                self._send(planned, SingleRegion(region.on_wire).pack(), (region.fd,))
            return
        payload, fds = self._content(planned.step, planned.ring)
        reply = self._send(planned, payload, fds)
        if reply is not None and number in self._on_reply:
            self._on_reply[number](reply)

    def _send(self, planned: ScriptMessage, payload: bytes, fds: tuple[int, ...]) -> Message | None:
        number = planned.step.id
        flags = VERSION | (NEED_REPLY if planned.need_reply else 0)
        self.be.wire.send(number, payload, flags=flags, fds=fds)
        own = answered(planned, self.be.acked)
        if not (own or planned.need_reply):
            return None
        message = self._reply(number)
        if not own:
            code = message.u64
            check(code == 0, f"{number.name} acknowledged with 0", f"acknowledged with {code}")
        return message

    def _reply(self, number: F) -> Message:
        """The reply, whose id must be that of the request: no front-end checks less."""
        message = self.be.wire.receive()
        self.be.own(message.close)
        flags = message.flags & (REPLY | 3)
        wanted = REPLY | VERSION
        check(
            (message.id, flags) == (number, wanted),
            f"a reply to {number.name}",
            f"id {message.id} with flags {message.flags:#x}",
        )
        return message

    def _content(self, step: Step, ring: int | None) -> Content:
        """Payload and descriptors."""
        if ring is not None:
            return self._ring_content(step, ring)
        made = self._contents.get(step.id)
        return (b"", ()) if made is None else made(step)

    def _ring_content(self, step: Step, index: int) -> Content:
        ring = self.rings.get(index)
        if step.id in (F.SET_VRING_ENABLE, F.GET_VRING_BASE):
            return vring_state(index, step.num), ()
        if ring is None or step.id is F.SET_VRING_ERR:
            return u64(index), (self.be.spare_fd(),)
        if step.id is F.SET_VRING_ADDR:
            return self.be.address(ring, log=step.log), ()
        if step.id is F.SET_VRING_NUM:
            return vring_state(index, ring.size), ()
        if step.id is F.SET_VRING_BASE:
            return vring_state(index, self.bases.get(index, 0)), ()
        fd = ring.kick_fd if step.id is F.SET_VRING_KICK else ring.call_fd
        return u64(index), (fd,)

    # -- contents of messages

    def _features(self, step: Step) -> Content:
        be = self.be
        be.driver_features = (1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT) & be.features
        return u64(be.driver_features | (LOG_ALL & be.features if step.log else 0)), ()

    def _protocol(self, _step: Step) -> Content:
        negotiated = self.be.protocol & self._knows
        self.be.acked = negotiated
        if P.MQ not in negotiated:
            self._check_rings(self.be.device_class.rings_per_queue)
        return u64(int(negotiated)), ()

    def _table(self, _step: Step) -> Content:
        return self.memory.table, self.memory.fds

    def _config(self, _step: Step) -> Content:
        return Config(0, 0, bytes(self.be.device_class.config_bytes)).pack(), ()

    def _channel(self, _step: Step) -> Content:
        ours, theirs = socket.socketpair()
        self.be.own(ours.close)
        self.be.own(theirs.close)
        return b"", (theirs.fileno(),)

    def _log_base(self, _step: Step) -> Content:
        log = DirtyLog.create(-(-self.memory.end // PAGE))
        self.be.own(log.close)
        return LogArea(log.size, 0).pack(), (log.fd,)

    def _get_inflight(self, _step: Step) -> Content:
        size = self.working.size
        return Inflight(0, 0, len(self._ring_numbers()[EVERY]), size).pack(), ()

    def _set_inflight(self, _step: Step) -> Content:
        assert self._inflight is not None  # noqa: S101  it is not sent without one
        return self._inflight.payload, self._inflight.fds

    def _status(self, step: Step) -> Content:
        return u64(step.num), ()

    # -- data from replies

    def _learn_features(self, reply: Message) -> None:
        self.be.features = reply.u64
        if not self.be.features & PROTOCOL_BIT:
            self._check_rings(self.be.device_class.rings_per_queue)

    def _learn_protocol(self, reply: Message) -> None:
        self.be.protocol = P(reply.u64)

    def _learn_rings(self, reply: Message) -> None:
        # QEMU, DPDK and their back-ends count a NIC's queues in pairs of rings.
        self.be.rings = reply.u64 * self.be.device_class.rings_per_queue
        self._check_rings(self.be.rings)

    def _check_rings(self, rings: int) -> None:
        """Raises `Unsupported` where the device has fewer rings than the front-end uses."""
        if rings < self.script.least:
            unsupported(f"is about {self.script.least} rings, and the back-end has {rings}")

    def _learn_inflight(self, reply: Message) -> None:
        self._inflight = reply

    def _learn_base(self, reply: Message) -> None:
        state = VringState.unpack(reply.payload)
        self.bases[state.ring] = state.num
