"""A front-end with features that ours does not have.

They are memory slots, the back-end channel with shared objects, device status, RESET_DEVICE,
error descriptors, SET_CONFIG, shared memory regions, guest addresses for rings, and stops that do
not wait for requests. Run as a program, it is ``emu`` with these: ``attach --blk SOCKET ...``.
"""

from __future__ import annotations

import functools
import os
import select
import socket
import threading
from typing import TYPE_CHECKING, Any, cast

from devices import blk, lifecycle
from devices import device as device_module
from devices.blk import VhostUserBlk
from devices.procedure import Ask, Phase
from emu import cli
from emu.orchestrator import attach
from emu.vm.vm import Vm
from vhost_user.codec import NEED_REPLY, REPLY, VERSION, close_all
from vhost_user.errors import BackendError, VhostUserError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BackendRequest, FrontendRequest, Request
from vhost_user.payloads import U64, Config, SharedUuid, SingleRegion
from vhost_user_conformance.peer.wire import Message, Wire, WireError

if TYPE_CHECKING:
    from collections.abc import Callable

    from devices.device import BackEnd, VhostDevice
    from devices.procedure import Procedure
    from devices.vring import Vring
    from vhost_user.frontend import FrontendConnection
    from vhost_user.messages import Reply

_F = FrontendRequest
_B = BackendRequest
P = ProtocolFeature
_memory, _enable = lifecycle._memory, lifecycle._enable
_start, _stop_rings = lifecycle.start, lifecycle.stop_rings
USER_BASE = device_module.USER_ADDRESS_BASE
MORE = (
    P.BACKEND_REQ
    | P.CONFIGURE_MEM_SLOTS
    | P.STATUS
    | P.RESET_DEVICE
    | P.SHARED_OBJECT
    | P.SHMEM
    | P.GPA_ADDRESSES
    | P.GET_VRING_BASE_INFLIGHT
    | P.GET_VRING_BASE_SKIP_DRAIN
)
ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK = 1, 2, 4, 8
#: The offset of `writeback` in a disk's configuration space (virtio 1.3, 5.2.4).
WRITEBACK_AT = 32
#: Seconds for each answer.
TIMEOUT = 5.0


class Channel:
    """The front-end's end of a back-end channel: a thread answers what the back-end sends.

    Args:
        ours: the socket.
        disk: the device that it belongs to.
        run: runs a procedure of the device, as other threads use its connection, too.
    """

    def __init__(
        self, ours: socket.socket, disk: VhostDevice, run: Callable[[Procedure], None]
    ) -> None:
        self._wire = Wire(ours, {each.value: each.name for each in _B}, TIMEOUT)
        self._disk = disk
        self._run = run
        self._objects: set[bytes] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._wire.fileno(), select.POLLIN)
        try:
            while poll.poll():
                message = self._wire.receive()
                close_all(message.fds)
                self._answer(message, *self._handle(message))
        except WireError:
            self._wire.close()

    def _answer(self, message: Message, code: int, fds: tuple[int, ...]) -> None:
        if message.flags & NEED_REPLY or message.id == _B.SHARED_OBJECT_LOOKUP:
            self._wire.send(message.id, U64(code).pack(), flags=VERSION | REPLY, fds=fds)
        close_all(fds)

    def _handle(self, message: Message) -> tuple[int, tuple[int, ...]]:
        """The answer: 0, or another number for what is refused, and descriptors."""
        if message.id == _B.CONFIG_CHANGE_MSG and not message.payload:
            self._ask(Request(_F.GET_CONFIG, Config(0, 0, bytes(60))))
            return 0, ()
        if message.id == _B.SHARED_OBJECT_ADD:
            self._objects.add(message.payload)
            return 0, ()
        if message.id == _B.SHARED_OBJECT_REMOVE and message.payload in self._objects:
            self._objects.remove(message.payload)
            return 0, ()
        if message.id == _B.SHARED_OBJECT_LOOKUP and message.payload in self._objects:
            fds = self._ask(Request(_F.GET_SHARED_OBJECT, SharedUuid(message.payload)))
            return (0, fds) if fds else (1, ())
        return 1, ()

    def _ask(self, request: Request) -> tuple[int, ...]:
        """Send a request that is always answered; the descriptors that came with the answer."""
        came: list[int] = []

        def ask() -> Procedure:
            replies = yield Ask.of(Phase.PROBE, self._disk.connection, [request])
            for reply in replies or ():
                came.extend(reply.fds if reply else ())

        try:
            self._run(ask())
        except VhostUserError:
            close_all(came)
            return ()
        return tuple(came)


class OptionalDisk(VhostUserBlk):
    """The disk."""

    wanted_protocol_features = VhostUserBlk.wanted_protocol_features | MORE
    #: Of the last back-end: there is one device.
    most_slots = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.run: Callable[[Procedure], None] | None = None
        self.error_fds = [os.eventfd(0) for _ in self.rings]
        self.slots: list[SingleRegion] = []
        self.status = 0

    @classmethod
    def negotiate(cls, connection: FrontendConnection, timeout: float) -> BackEnd:
        """See `VhostDevice.negotiate`."""
        back_end = super().negotiate(connection, timeout)
        if P.CONFIGURE_MEM_SLOTS in connection.protocol_features:
            cls.most_slots = _number(connection.call(Request(_F.GET_MAX_MEM_SLOTS), timeout))
        if P.SHMEM in connection.protocol_features:
            connection.call(Request(_F.GET_SHMEM_CONFIG), timeout)
        return back_end

    def use(self, back_end: BackEnd) -> None:
        """See `VhostDevice.use`."""
        super().use(back_end)
        self.slots, self.status = [], 0
        base = 0 if self.negotiated(P.GPA_ADDRESSES) else USER_BASE
        device_module.USER_ADDRESS_BASE = lifecycle.USER_ADDRESS_BASE = base  # type: ignore[attr-defined]
        if P.BACKEND_REQ in self.connection.protocol_features:
            ours, theirs = socket.socketpair()
            with theirs:
                request = Request(_F.SET_BACKEND_REQ_FD, None, (theirs.fileno(),), need_reply=True)
                self.connection.call(request, TIMEOUT)
            Channel(ours, self, self.drive)

    def drive(self, procedure: Procedure) -> None:
        """Run a procedure of this device in its VM."""
        if self.run is not None:
            self.run(procedure)

    def negotiated(self, feature: ProtocolFeature) -> bool:
        """Whether this protocol feature is in use."""
        return feature in self.connection.protocol_features


def _number(reply: Reply | None) -> int:
    """The number in a reply."""
    return cast("U64", cast("Reply", reply).payload).value


def more_memory(device: VhostDevice) -> list[Request]:
    """In place of SET_MEM_TABLE: the regions that the back-end does not have."""
    disk = cast("OptionalDisk", device)
    requests = _memory(device)
    *others, table = [each for each in requests if each.id != _F.GET_FEATURES]
    if not disk.negotiated(P.CONFIGURE_MEM_SLOTS):
        return requests
    if len(table.fds) > disk.most_slots:
        raise BackendError(f"the back-end has {disk.most_slots} slots only", device=disk.name)
    for region, fd in zip(table.payload.regions, table.fds, strict=True):  # type: ignore[union-attr]
        slot = SingleRegion(region)
        if slot not in disk.slots:
            disk.slots.append(slot)
            others.append(Request(_F.ADD_MEM_REG, slot, (fd,)))
    return lifecycle._confirmed(device, others)


def more_enable(device: VhostDevice, ring: Vring) -> list[Request]:
    """SET_VRING_ENABLE, and before it the ring's error descriptor."""
    fd = cast("OptionalDisk", device).error_fds[ring.index]
    return [Request(_F.SET_VRING_ERR, U64(ring.index), (fd,)), *_enable(device, ring)]


def start(device: VhostDevice) -> Procedure:
    """Also set the status, and a field of the configuration space."""
    disk = cast("OptionalDisk", device)
    fresh = bool(device.configured_rings()) and not disk.status
    if fresh:
        yield from set_status(disk, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER)
        yield Ask.of(
            Phase.START_VRINGS,
            device.connection,
            [Request(_F.SET_FEATURES, U64(device.features)), Request(_F.GET_FEATURES)],
        )
        yield from set_status(disk, ACKNOWLEDGE | DRIVER | FEATURES_OK)
    yield from _start(device)
    if fresh:
        yield from set_status(disk, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)
        if disk.negotiated(P.CONFIG):
            change = Request(_F.SET_CONFIG, Config(WRITEBACK_AT, 0, b"\1"), need_reply=True)
            yield Ask.of(Phase.START_VRINGS, device.connection, [change])


def set_status(disk: OptionalDisk, *values: int) -> Procedure:
    """SET_STATUS with each of these, as virtio 1.3, 3.1.1 orders them; GET_STATUS after it."""
    if not disk.negotiated(P.STATUS):
        return
    disk.status = values[-1]
    requests = [Request(_F.SET_STATUS, U64(value)) for value in values]
    yield Ask.of(Phase.START_VRINGS, disk.connection, [*requests, Request(_F.GET_STATUS)])


def stop_rings(device: VhostDevice) -> Procedure:
    """Rings are stopped by GET_VRING_BASE_SKIP_DRAIN where it was negotiated."""
    disk = cast("OptionalDisk", device)
    steps, answer = _stop_rings(device), None
    try:
        while True:
            step = steps.send(answer)
            if isinstance(step, Ask) and disk.negotiated(P.GET_VRING_BASE_SKIP_DRAIN):
                stops = [
                    each.request._replace(id=_F.GET_VRING_BASE_SKIP_DRAIN) for each in step.messages
                ]
                step = Ask.of(step.phase, step.connection, stops)
            answer = yield step
    except StopIteration:
        return


def reset(device: VhostDevice) -> Procedure:
    """Rings are stopped, then the device is reset, and the memory is taken back."""
    disk = cast("OptionalDisk", device)
    yield from lifecycle.stop(device)
    requests = []
    if disk.negotiated(P.RESET_DEVICE):
        requests.append(Request(_F.RESET_DEVICE))
    if disk.negotiated(P.STATUS):
        requests.append(Request(_F.SET_STATUS, U64(0)))
    requests += [Request(_F.REM_MEM_REG, slot) for slot in disk.slots]
    requests.append(Request(_F.GET_FEATURES))
    disk.slots, disk.status = [], 0
    yield Ask.of(Phase.GET_VRING_BASE, device.connection, requests)
    device.forget_rings()


class OptionalVm(Vm):
    """A VM whose devices may use their connections from a thread of their channel."""

    def _connect(self, connected: Any) -> None:
        for disk in self.devices:
            if isinstance(disk, OptionalDisk):
                disk.run = functools.partial(self.drive_one, disk)
        super()._connect(connected)


if __name__ == "__main__":
    lifecycle._memory, lifecycle._enable = more_memory, more_enable
    lifecycle.start, lifecycle.stop_rings, lifecycle.reset = start, stop_rings, reset
    blk.VhostUserBlk = OptionalDisk  # type: ignore[misc]
    attach.Vm = OptionalVm  # type: ignore[attr-defined]
    cli.main()
