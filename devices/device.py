"""The front-end's side of a vhost-user device: its connection, its rings, and their state."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from devices.notifiers import (
    ANY_VALUE,
    NOTIFY_BYTES,
    GuestNotifier,
    HostNotifier,
    Ioeventfd,
    Irqfd,
)
from devices.vring import Vring
from vhost_user import eventfd
from vhost_user.errors import BackendError, UsageError
from vhost_user.features import (
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
    ProtocolFeature,
)
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64, Inflight, MemoryRegion, MemTable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vhost_user.virtqueue import RingAddresses

#: User addresses are guest addresses plus this. No process maps anything there, so a back-end that
#: does not translate an address fails at once instead of reading other memory.
USER_ADDRESS_BASE = 1 << 52

#: The feature bits that all devices use where they are offered.
COMMON_FEATURES = (
    (1 << VIRTIO_F_VERSION_1)
    | (1 << VIRTIO_RING_F_INDIRECT_DESC)
    | (1 << VIRTIO_RING_F_EVENT_IDX)
    | (1 << VHOST_F_LOG_ALL)
    | (1 << VHOST_USER_F_PROTOCOL_FEATURES)
)
_LOG_ALL = 1 << VHOST_F_LOG_ALL
#: The protocol features that all devices use where they are offered.
COMMON_PROTOCOL_FEATURES = (
    ProtocolFeature.MQ | ProtocolFeature.LOG_SHMFD | ProtocolFeature.REPLY_ACK
)


class BackEnd(NamedTuple):
    """A connected back-end that no device uses yet.

    Attributes:
        connection: features and protocol features are negotiated on it.
        queues: how many queues the back-end has, as GET_QUEUE_NUM counts them.
    """

    connection: FrontendConnection
    queues: int


class InflightFile(NamedTuple):
    """The inflight region: its file, which the device closes, and the payload that describes it."""

    fd: int
    area: Inflight


class SharedMemory(NamedTuple):
    """A region of guest memory that is shared with back-ends, and its memfd."""

    gpa: int
    size: int
    fd: int


class VhostDevice:
    """A vhost-user device of a machine. A subclass defines its device class and its features.

    Args:
        name: ``net0``, ``blk3``; also in tables, errors and socket names.
        notify_addresses: guest physical notify address of each ring.
        vectors: interrupt vector of each ring.

    Attributes:
        device_class: ``blk``, ``net`` or ``rng``.
        wanted_features, wanted_protocol_features: what `negotiate` asks for.
        in_order: back-ends of the class complete the buffers of a ring in their order.
        queue_unit: what GET_QUEUE_NUM counts, for error messages.
        rings: its rings, whether the driver has set them up or not.
        memory: the machine's memory, for SET_MEM_TABLE.
        host_notifiers, guest_notifiers: whether the ioeventfds, and the irqfds, are assigned.
        logging: whether the back-end logs its writes to guest memory.
        setups: how often the driver has set up its rings, or reset the device.
        acked_features: feature bits that the guest's driver has acked.
        inflight: the inflight region, once the back-end has sent it.
    """

    device_class = ""
    wanted_features = COMMON_FEATURES
    wanted_protocol_features = COMMON_PROTOCOL_FEATURES
    queue_unit = "rings"
    in_order = False

    def __init__(self, name: str, notify_addresses: Sequence[int], vectors: Sequence[int]) -> None:
        self.name = name
        self._eventfds = eventfd.default()
        fds = self._eventfds.create(2 * len(notify_addresses))
        self.rings = [
            Vring(index, address, vector, fds[2 * index], fds[2 * index + 1])
            for index, (address, vector) in enumerate(zip(notify_addresses, vectors, strict=True))
        ]
        # The edits never change, so they are made here and not in a blackout.
        ioeventfds = [
            Ioeventfd(
                ring.notify_address, NOTIFY_BYTES, ANY_VALUE, ring.kick_fd, f"{name} ring {index}"
            )
            for index, ring in enumerate(self.rings)
        ]
        irqfds = [Irqfd(ring.vector, ring.call_fd) for ring in self.rings]
        self._host_edits = {
            assign: [
                HostNotifier(assign, name, self.device_class, index, ioeventfd)
                for index, ioeventfd in enumerate(ioeventfds)
            ]
            for assign in (False, True)
        }
        self._guest_edits = {
            assign: [
                GuestNotifier(assign, name, self.device_class, index, irqfd)
                for index, irqfd in enumerate(irqfds)
            ]
            for assign in (False, True)
        }
        self.memory: Sequence[SharedMemory] = ()
        self.host_notifiers = False
        self.guest_notifiers = False
        self.logging = False
        self.setups = 0
        self.acked_features = 0
        self.inflight: InflightFile | None = None
        self._connection: FrontendConnection | None = None

    @property
    def queues(self) -> int:
        """The device's queues, as GET_QUEUE_NUM counts them."""
        return len(self.rings)

    @property
    def connection(self) -> FrontendConnection:
        """The vhost-user connection.

        Raises:
            UsageError: the device has not been connected.
        """
        if self._connection is None:
            raise UsageError("is not connected to a back-end", device=self.name)
        return self._connection

    @property
    def connected(self) -> bool:
        """There is a connection, usable or broken."""
        return self._connection is not None

    @classmethod
    def negotiate(cls, connection: FrontendConnection, timeout: float) -> BackEnd:
        """Negotiate what a device of this class uses, and ask what the back-end offers.

        Args:
            connection: nothing was sent on it yet; it is closed if this fails.
            timeout: seconds for each reply.

        Raises:
            BackendError: the back-end broke the protocol.
            DeadlineError: it does not answer in time.
        """
        try:
            connection.negotiate(
                features=cls.wanted_features,
                protocol_features=cls.wanted_protocol_features,
                timeout=timeout,
            )
            return BackEnd(connection, _queues_offered(connection, timeout))
        except BaseException:
            connection.close()
            raise

    def connect(
        self, path: str, *, timeout: float = 10.0, connect_timeout: float | None = None
    ) -> None:
        """Connect to the back-end that listens at ``path``, `negotiate`, and `use` it.

        Args:
            path: its socket.
            timeout: seconds for each reply.
            connect_timeout: seconds until a process listens there; by default ``timeout``.

        Raises:
            BackendError: the back-end has too few queues, or broke the protocol.
            DeadlineError: it does not listen, or does not answer, in time.
        """
        wait = timeout if connect_timeout is None else connect_timeout
        connection = FrontendConnection.connect(path, name=self.name, timeout=wait)
        self.use(self.negotiate(connection, timeout))

    def use(self, back_end: BackEnd) -> None:
        """Use a back-end, as `negotiate` of this class returned it; the device owns it from now on.

        Raises:
            BackendError: it has too few queues.
        """
        self._connection = back_end.connection
        if back_end.queues < self.queues:
            raise BackendError(
                f"the back-end has too few {self.queue_unit}: {back_end.queues}, and the device "
                f"has {self.queues}",
                device=self.name,
            )
        self.acked_features = back_end.connection.features & ~_LOG_ALL

    def restore(
        self,
        connection: FrontendConnection,
        acked_features: int,
        inflight: InflightFile | None,
    ) -> None:
        """Continue with the connection, acked features and inflight region of another process."""
        self._connection = connection
        self.acked_features = acked_features
        self.inflight = inflight

    def require_dirty_log(self) -> None:
        """Check that the back-end can log its writes to guest memory.

        Raises:
            BackendError: it does not offer VHOST_F_LOG_ALL or LOG_SHMFD.
        """
        lacking = []
        if not self.connection.features & _LOG_ALL:
            lacking.append("VHOST_F_LOG_ALL")
        if ProtocolFeature.LOG_SHMFD not in self.connection.protocol_features:
            lacking.append("LOG_SHMFD")
        if lacking:
            raise BackendError(
                f"the back-end does not offer {' and '.join(lacking)}: it cannot log its "
                "writes to guest memory, which a live migration needs",
                device=self.name,
            )

    @property
    def features(self) -> int:
        """The features for SET_FEATURES: the acked ones, and LOG_ALL while the dirty log is on."""
        return self.acked_features | (_LOG_ALL if self.logging else 0)

    def use_features(self, features: int) -> None:
        """Use the features that the guest's driver has acked on another back-end.

        Raises:
            BackendError: the back-end of this device does not offer some of them.
        """
        lacking = features & ~self.connection.features
        if lacking:
            raise BackendError(
                f"the back-end does not offer the features {lacking:#x}, which the guest uses",
                device=self.name,
            )
        self.acked_features = features

    def has_feature(self, bit: int) -> bool:
        """Whether a feature bit (its number) is acked."""
        return bool(self.acked_features >> bit & 1)

    def set_up_rings(self, addresses: Sequence[RingAddresses | None]) -> None:
        """The guest's driver has set up its rings, but for those without addresses.

        They start at index 0.
        """
        self.forget_inflight()
        self.setups += 1
        for ring, ring_addresses in zip(self.rings, addresses, strict=True):
            ring.set_up(ring_addresses)

    def disable_rings(self, rings: Iterable[int]) -> None:
        """The guest's driver enables the others only; of rings that are not started yet."""
        for ring in rings:
            self.rings[ring].enabled = False

    def forget_rings(self) -> None:
        """The guest's driver has reset the device: it has no rings until it sets them up again."""
        self.forget_inflight()
        self.setups += 1
        for ring in self.rings:
            ring.set_up(None)

    def receives(self, ring: Vring) -> bool:  # noqa: ARG002  a NIC's do
        """Whether the ring's buffers wait for data from outside: they are not requests."""
        return False

    def forget_log(self) -> None:
        """The next start is without the dirty log; nothing is sent now."""
        self.logging = False

    def configured_rings(self) -> list[Vring]:
        """The rings that the driver has set up."""
        return [ring for ring in self.rings if ring.addresses is not None]

    @property
    def needs_inflight(self) -> bool:
        """The back-end tracks its requests in an inflight region, and has not sent it yet."""
        return self.tracks_inflight and self.inflight is None

    @property
    def drains(self) -> bool:
        """Whether its requests are to be completed before GET_VRING_BASE is sent.

        A back-end shall complete those that it has taken before it replies (vhost-user, since
        e7985b6a56). One that does not, such as QEMU 7.2's storage daemon, completes them later, in
        any order. Without an inflight region its rings cannot be resumed after a roll-back or
        `cont` meanwhile. With one they can, on the same host; but a migration does not send the
        region, so its source awaits such requests after the stop (`emu.vm.early_stops`).
        """
        return self.connected and not self.in_order and not self.tracks_inflight

    @property
    def tracks_inflight(self) -> bool:
        """The back-end tracks its requests in a region that outlives it (INFLIGHT_SHMFD)."""
        return ProtocolFeature.INFLIGHT_SHMFD in self.connection.protocol_features

    @property
    def resumable(self) -> bool:
        """A back-end can resume the rings at their used indices, with requests in flight.

        Either it completes them in order, or the inflight region shows which are completed
        (vhost-user, "Inflight I/O tracking").
        """
        return self.in_order or (self.inflight is not None and self.tracks_inflight)

    def forget_inflight(self) -> None:
        """Close the inflight region; the next start requests a new one."""
        if self.inflight is not None:
            os.close(self.inflight.fd)
            self.inflight = None

    def mem_table(self) -> tuple[MemTable, tuple[int, ...]]:
        """SET_MEM_TABLE's payload and descriptors for the machine's memory."""
        regions = tuple(
            MemoryRegion(part.gpa, part.size, USER_ADDRESS_BASE + part.gpa, 0)
            for part in self.memory
        )
        return MemTable(regions), tuple(part.fd for part in self.memory)

    def host_edits(self, *, assign: bool) -> Sequence[HostNotifier]:
        """The edits that assign or deassign every ring's ioeventfd."""
        return self._host_edits[assign]

    def guest_edits(self, *, assign: bool) -> Sequence[GuestNotifier]:
        """The edits that assign or deassign every ring's irqfd."""
        return self._guest_edits[assign]

    def notifier_fds(self) -> list[int]:
        """Kick and call eventfds of all started rings."""
        return [fd for ring in self.rings if ring.started for fd in (ring.kick_fd, ring.call_fd)]

    def kick(self, ring: int) -> None:
        """Kick a ring, by its index, for a guest's write that no ioeventfd took."""
        self._eventfds.signal([self.rings[ring].kick_fd])

    def disconnect(self) -> None:
        """Close the connection; the back-end then stops and forgets all rings."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        for ring in self.rings:
            ring.mark_stopped(ring.base)

    def close(self) -> None:
        """Close the connection, the eventfds and the inflight region."""
        self.disconnect()
        self.forget_inflight()
        fds = [fd for ring in self.rings for fd in (ring.kick_fd, ring.call_fd) if fd >= 0]
        self._eventfds.close(fds)
        for ring in self.rings:
            ring.kick_fd = ring.call_fd = -1


def _queues_offered(connection: FrontendConnection, timeout: float) -> int:
    """How many queues the back-end has; without MQ it is one ("Multiple queue support")."""
    if ProtocolFeature.MQ not in connection.protocol_features:
        return 1
    reply = connection.call(Request(FrontendRequest.GET_QUEUE_NUM), timeout)
    if reply is None or not isinstance(reply.payload, U64):
        raise BackendError("sent no number of queues", device=connection.name)
    return reply.payload.value
