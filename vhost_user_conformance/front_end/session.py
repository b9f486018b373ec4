"""The suite's back-end in one session: it answers by its script, serves rings, and records."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING

from vhost_user import inflight
from vhost_user.codec import NEED_REPLY
from vhost_user.features import (
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_RING_F_EVENT_IDX,
    ProtocolFeature,
)
from vhost_user.message_spec import ReplyRule
from vhost_user.messages import FRONTEND_MESSAGES, BackendRequest
from vhost_user.payloads import (
    U64,
    VRING_NO_FD,
    Inflight,
    MemTable,
    PayloadError,
    SingleRegion,
    VringState,
)
from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.descriptors import look_at, map_shared
from vhost_user_conformance.front_end.recording import (
    Answered,
    Begun,
    F,
    Received,
    Recording,
    Table,
)
from vhost_user_conformance.front_end.script import KINDS, REPLY_FLAGS, Script
from vhost_user_conformance.front_end.serving import (
    Device,
    GuestMemory,
    Ring,
    Walker,
)
from vhost_user_conformance.peer.wire import (
    Closed,
    Message,
    Silent,
    Wire,
    WireError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.front_end.qmp import Qmp
    from vhost_user_conformance.front_end.serving import Chain

#: Requests that are kept to be looked at; there may be many.
CHAINS_KEPT = 4000
#: The same of a ring's that is not worked on.
OFFERED_KEPT = 64
#: Of the messages of the back-end channel.
CHANNEL_NAMES = {member.value: member.name for member in BackendRequest}
PROTOCOL_BIT = 1 << VHOST_USER_F_PROTOCOL_FEATURES


class Session:
    """One connection of the front-end under test.

    Args:
        wire: connected.
        script: how to behave.
        device: class of device, or "".
        work: what the device is, if the session before has had it already.

    Attributes:
        recording: what came so far.
        act: what is being done to the front-end.
        memory, rings: what it has told of.
        channel: its back-end channel, if it gave one.
        work: what carries requests out.
        held: requests that were taken and are to be completed later (`Script.holds`).
        over: nothing more comes.
        longest_pause: seconds that went by between two messages.
    """

    def __init__(self, wire: Wire, script: Script, device: str, work: Device | None = None) -> None:
        self.wire = wire
        self.script = script
        self.device = device
        self.recording = Recording(transcript=wire.transcript)
        self.act = START
        self.memory = GuestMemory()
        self.rings: dict[int, Ring] = {}
        self.features: int | None = None
        self.protocol = 0
        self.channel: Wire | None = None
        self.over = False
        self.last = time.monotonic()
        self.longest_pause = 0.0
        self.work = Device(device) if work is None else work
        self.held: deque[tuple[Ring, Chain]] = deque()
        self._reactions = dict(script.reactions)
        self._status = 0
        self._busy: set[Ring] = set()
        self._inflight: tuple[int, int] | None = None

    # -- the loop

    def pump(self, done: Callable[[], bool], patience: float, qmp: Qmp | None = None) -> bool:
        """Answer and serve until it is done; whether it was, before time or the session ended."""
        until = time.monotonic() + patience
        while not self.over:
            if done():
                return True
            left = until - time.monotonic()
            if left <= 0:
                return False
            self._step(min(left, 0.05), qmp)
        return done()

    def _step(self, wait: float, qmp: Qmp | None) -> None:
        busy, self._busy = self._busy, set()
        for ring in busy:
            self._serve(ring)
        poll = select.poll()
        poll.register(self.wire.fileno(), select.POLLIN)
        if qmp is not None and not qmp.closed:
            poll.register(qmp.fileno(), select.POLLIN)
        kicks = {}
        for ring in self.rings.values():
            if ring.kick is not None:
                poll.register(ring.kick, select.POLLIN)
                kicks[ring.kick] = ring
        ready = {fd for fd, _ in poll.poll(0 if self._busy else wait * 1000)}
        for fd in ready & kicks.keys():
            self._kicked(kicks[fd], fd)
        if qmp is not None and qmp.fileno() in ready:
            qmp.take()
        # A message may close what was polled, so it comes last.
        if self.wire.fileno() in ready:
            self._take()

    def quiet(self, seconds: float) -> bool:
        """Whether no message has come for so long; kicks of a busy guest do not count."""
        return time.monotonic() - self.last >= seconds

    def leave_unrecorded(self) -> None:
        """What comes from now on is answered, and is not of the recording any more."""
        self.recording.transcript = list(self.recording.transcript)
        self.recording = Recording()

    def restart_quiet(self) -> None:
        """Count `quiet` from now on."""
        self.last = time.monotonic()

    def hang_up(self) -> None:
        """Close the connection, as a back-end that ends does."""
        self.wire.close()
        self.over = True

    def close_channel(self) -> None:
        """Close the back-end channel."""
        if self.channel is not None:
            self.channel.close()
            self.channel = None

    @property
    def running(self) -> bool:
        """Whether a ring has been started and kicked."""
        return any(ring.ready and ring.kicked for ring in self.rings.values())

    def _take(self) -> None:
        try:
            message = self.wire.receive()
        except WireError as error:
            self._end(clean=isinstance(error, Closed))
            return
        now = time.monotonic()
        if self.recording.messages:
            self.longest_pause = max(self.longest_pause, now - self.last)
        self.last = now
        self._note(message)
        try:
            self._learn(message)
            self._answer(message)
        except (WireError, BrokenPipeError) as error:
            # One that takes no answer any more is one that says nothing any more.
            self._end(clean=not isinstance(error, Silent))
        finally:
            message.close()

    def _end(self, *, clean: bool) -> None:
        self.over = True
        self.recording.left = self.recording.left or clean

    def _note(self, message: Message) -> None:
        self.recording.messages.append(
            Received(
                len(self.recording.messages),
                self.act,
                message.id,
                message.flags,
                message.payload,
                tuple(map(look_at, message.fds)),
                self.features,
                self.protocol,
                self._wants_reply(message) and self.wire.waiting,
                len(self.recording.transcript),
            )
        )

    def mark(self, what: str) -> None:
        """Note what a reaction has done: what comes next is what the front-end makes of it."""
        self.recording.marks.append((len(self.recording.messages), what))

    # -- what it says

    def _learn(self, message: Message) -> None:
        """Take note of what a message says; one that cannot be read is the cases' business."""
        with contextlib.suppress(PayloadError, ValueError):
            if message.id == F.SET_FEATURES:
                self.features = message.u64
                self._enable_all()
            elif message.id == F.SET_PROTOCOL_FEATURES:
                self.protocol = message.u64
            elif message.id == F.SET_STATUS:
                self._status = message.u64
            elif message.id in (F.SET_MEM_TABLE, F.ADD_MEM_REG, F.REM_MEM_REG):
                self._learn_memory(message)
            elif message.id in (F.SET_LOG_BASE, F.SET_INFLIGHT_FD) and message.fds:
                self._try_mapping(message)
            elif message.id == F.SET_BACKEND_REQ_FD and message.fds:
                self._learn_channel(message)
            else:
                self._learn_ring(message)

    def _learn_memory(self, message: Message) -> None:
        if message.id == F.SET_MEM_TABLE:
            self.memory.clear()
            for region, fd in zip(
                MemTable.unpack(message.payload).regions, message.fds, strict=False
            ):
                self.memory.add(region, fd)
        else:
            region = SingleRegion.unpack(message.payload).region
            if message.id == F.REM_MEM_REG:
                self.memory.remove(region)
            elif message.fds:
                self.memory.add(region, message.fds[0])
        mapped = self.memory.mapped
        self.recording.tables.append(
            Table(
                len(self.recording.messages) - 1,
                tuple(each.region for each in mapped),
                tuple(each.region for each in mapped if each.view is None),
            )
        )

    def _try_mapping(self, message: Message) -> None:
        """Both kinds of payload begin with the size and the offset of what is to be mapped."""
        size, offset = struct.unpack_from("<QQ", message.payload.ljust(16, b"\0"))
        view = map_shared(message.fds[0], size, offset)
        if view is None:
            self.recording.unmapped.add(len(self.recording.messages) - 1)
        else:
            view.close()

    def _learn_channel(self, message: Message) -> None:
        self.close_channel()
        fd = os.dup(message.fds[0])
        try:
            sock = socket.socket(fileno=fd)
        except OSError:  # it is no socket, which is the cases' business
            os.close(fd)
            return
        self.channel = Wire(sock, CHANNEL_NAMES, self.wire.patience)

    def _learn_ring(self, message: Message) -> None:
        if message.id in (F.SET_VRING_KICK, F.SET_VRING_CALL):
            ring = self._ring(message.u64 & 0xFF)
            fd = os.dup(message.fds[0]) if message.fds else None
            name = "kick" if message.id == F.SET_VRING_KICK else "call"
            old = getattr(ring, name)
            setattr(ring, name, fd)
            if old is not None:
                os.close(old)
            if name == "kick" and ring.ready:
                self._begin(ring)
        elif message.id == F.SET_VRING_ADDR:
            received = self.recording.messages[-1].address
            self._ring(received.ring).address = received
        elif message.id in (F.SET_VRING_NUM, F.SET_VRING_BASE, F.SET_VRING_ENABLE):
            state = VringState.unpack(message.payload)
            ring = self._ring(state.ring)
            if message.id == F.SET_VRING_NUM:
                ring.size = state.num
            elif message.id == F.SET_VRING_BASE:
                ring.next = state.num & 0xFFFF
            else:
                ring.enabled = bool(state.num)
                self._serve(ring)

    def _begin(self, ring: Ring) -> None:
        walker = self._walker(ring)
        available = walker.avail_index
        if available is not None:
            at = len(self.recording.messages) - 1
            used = walker.used_index
            self.recording.begun.append(Begun(at, ring.index, ring.next, used, available))
        walker.want_kick()

    def _walker(self, ring: Ring) -> Walker:
        ring.event_idx = bool((self.features or 0) >> VIRTIO_RING_F_EVENT_IDX & 1)
        return Walker(self.memory, ring)

    def _ring(self, index: int) -> Ring:
        if index not in self.rings:
            self.rings[index] = Ring(index)
            self.rings[index].quiet = self.script.calls_as_asked
            self._enable_all()
        return self.rings[index]

    def _enable_all(self) -> None:
        """Without bit 30 there is no SET_VRING_ENABLE: all rings are enabled."""
        if self.features is not None and not self.features & PROTOCOL_BIT:
            for ring in self.rings.values():
                ring.enabled = True

    # -- its rings

    def _kicked(self, ring: Ring, fd: int) -> None:
        with contextlib.suppress(OSError):  # somebody else may have read it, or it is no eventfd
            os.read(fd, 8)
        ring.kicked = True
        self.recording.kicks.add((self.act, ring.index))
        self._serve(ring)

    def _serve(self, ring: Ring) -> None:
        """Look at what is available, and do what the device can do."""
        if self.script.idle or not (ring.ready and ring.enabled and ring.kicked):
            return
        walker = self._walker(ring)
        if not self.work.handles(ring.index):
            room = OFFERED_KEPT - len(self.recording.offered)
            self.recording.offered += walker.look_ahead(room)
            return
        self.recording.flag_faults.update(walker.flag_faults())
        # A front-end may add requests as fast as they are taken: others want their turn, too.
        for _ in range(ring.size):
            chain = walker.take()
            if chain is None:
                return
            if len(self.recording.chains) < CHAINS_KEPT:
                self.recording.chains.append(chain)
            if self.script.holds:
                self.held.append((ring, chain))
                walker.want_kick()
            else:
                walker.give_back(chain, self.work.do(self.memory, chain))
        self._busy.add(ring)

    def complete_one(self) -> bool:
        """Complete the request that has been held longest; False: none is held."""
        if not self.held:
            return False
        ring, chain = self.held.popleft()
        self._walker(ring).give_back(chain, self.work.do(self.memory, chain))
        return True

    def waiting(self) -> dict[int, int]:
        """Rings that run and have requests for which no kick has come; where each ring stands."""
        found = {}
        for ring in self.rings.values():
            if ring.ready and ring.enabled and self.work.handles(ring.index):
                available = self._walker(ring).avail_index
                if available not in (None, ring.next):
                    found[ring.index] = ring.next
        return found

    # -- what it is told

    def _answer(self, message: Message) -> None:
        reaction = self._reactions.get(message.id)
        if self.script.delay and self._wants_reply(message):
            time.sleep(self.script.delay)  # the delay is what is tested
        if reaction is None:
            self.answer(message)
        else:
            reaction(self, message)

    def _wants_reply(self, message: Message) -> bool:
        row = FRONTEND_MESSAGES.get(F(message.id)) if message.id in F._value2member_map_ else None
        if row is not None and row.reply is ReplyRule.ALWAYS:
            return True
        if message.id == F.SET_LOG_BASE and self.protocol & ProtocolFeature.LOG_SHMFD:
            return True
        return bool(message.flags & NEED_REPLY and self.protocol & ProtocolFeature.REPLY_ACK)

    def answer(self, message: Message) -> None:
        """Answer as a good back-end does."""
        if not self._wants_reply(message):
            return
        payload, fds = self.reply_to(message)
        self.reply(message.id, payload, fds)

    def reply(
        self, number: int, payload: bytes, fds: tuple[int, ...] = (), flags: int = REPLY_FLAGS
    ) -> None:
        """Send a reply, right or wrong; a front-end that has gone is no error here."""
        self.wire.send(number, payload, flags=flags, fds=fds)

    def reply_to(self, message: Message) -> tuple[bytes, tuple[int, ...]]:
        """What a good back-end answers."""
        if message.id == F.GET_VRING_BASE:
            return self._stop_ring(message), ()
        if message.id == F.GET_CONFIG:
            return self._config(message.payload), ()
        if message.id == F.GET_INFLIGHT_FD:
            return self._inflight_fd(message.payload)
        values = {
            F.GET_FEATURES: self.script.features(self.device),
            F.GET_PROTOCOL_FEATURES: self.script.protocol(self.device),
            F.GET_QUEUE_NUM: self.script.queues,
            F.GET_MAX_MEM_SLOTS: self.script.slots,
            F.SET_DEVICE_STATE_FD: VRING_NO_FD,
            F.GET_STATUS: self._status,
        }
        known = message.id in F._value2member_map_
        if known and F(message.id) in values:
            return U64(values[F(message.id)]).pack(), ()
        if message.id == self.script.refuses:
            self.mark("a refusal")
            return U64(1).pack(), ()
        return U64(0).pack(), ()

    def _stop_ring(self, message: Message) -> bytes:
        index = VringState.unpack(message.payload[:8].ljust(8, b"\0")).ring
        ring = self._ring(index)
        self._serve(ring)
        while any(held is ring for held, _ in self.held):
            self.complete_one()
        self._busy.discard(ring)
        ring.stop()
        at = len(self.recording.messages) - 1
        self.recording.bases.append(Answered(at, index, ring.next))
        return VringState(index, ring.next).pack()

    def _config(self, asked: bytes) -> bytes:
        offset, size = (int.from_bytes(asked[at : at + 4], "little") for at in (0, 4))
        space = KINDS[self.device].config.ljust(256, b"\0")
        if offset + size > len(space):
            return b""
        return asked[:12] + space[offset : offset + size]

    def _inflight_fd(self, asked: bytes) -> tuple[bytes, tuple[int, ...]]:
        wanted = Inflight.unpack(asked[:24].ljust(24, b"\0"))
        fd, size = inflight.create(max(wanted.num_queues, 1), max(wanted.queue_size, 1))
        if self._inflight is not None:
            os.close(self._inflight[0])
        self._inflight = (fd, size)
        given = Inflight(size, 0, wanted.num_queues, wanted.queue_size)
        self.recording.regions.append((given, look_at(fd)))
        return given.pack(), (fd,)

    def close(self) -> None:
        """Close the connection, and all that came over it, whatever fails.

        Raises:
            OSError: some of it had been closed already.
        """
        with contextlib.ExitStack() as owned:
            owned.callback(self.memory.clear)
            if self._inflight is not None:
                owned.callback(os.close, self._inflight[0])
                self._inflight = None
            for ring in self.rings.values():
                owned.callback(ring.stop)
            if self.channel is not None:
                owned.callback(self.channel.close)
            owned.callback(self.wire.close)
