"""The procedures of a vhost-user device: start, stop, and the dirty log.

Each is a generator of steps (`devices.procedure`); a strategy answers them. `start`, `stop` and the
procedures of the notifiers are idempotent: a stopped device is not stopped again, and a notifier
that is assigned is not assigned again. A failed migration is rolled back by `start`, however far
`stop` has come.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.device import USER_ADDRESS_BASE, InflightFile, VhostDevice
from devices.procedure import Ask, AwaitSwitchover, Change, Phase, Procedure
from devices.vring import MAX_BASE, Vring
from vhost_user.errors import BackendError, UsageError
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, ProtocolFeature
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64, VRING_F_LOG, Inflight, LogArea, VringAddr, VringState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vhost_user.dirty_log import DirtyLog
    from vhost_user.messages import Reply
    from vhost_user.prepared import Batch
    from vhost_user.virtqueue import RingAddresses


def stop(device: VhostDevice) -> Procedure:
    """Stop the rings, then deassign the guest and the host notifiers.

    The notifiers are deassigned last: a stopped ring sends no calls and a paused vCPU no kicks, so
    a strategy may delay these steps until after the blackout.
    """
    yield from stop_rings(device)
    yield from disable_guest_notify(device)
    yield from disable_host_notify(device)


def stop_rings(device: VhostDevice) -> Procedure:
    """Stop the rings of a device that `start` continues with; its notifiers stay assigned.

    GET_VRING_BASE stops a ring; its reply is the base to start it from again (vhost-user,
    "Ring states"). A kick that comes meanwhile stays in its eventfd, which the back-end gets again
    when the ring starts.
    """
    running = [ring for ring in device.rings if ring.started]
    if running:
        replies = yield Ask.of(
            Phase.GET_VRING_BASE,
            device.connection,
            [
                Request(FrontendRequest.GET_VRING_BASE, VringState(ring.index, 0))
                for ring in running
            ],
        )
        # All have stopped, even if the base of one is rejected below.
        for ring in running:
            ring.mark_stopped(ring.base)
        for ring, reply in zip(running, replies or (), strict=True):
            ring.mark_stopped(_base_of(device, ring, reply.payload if reply else None))


def disable_guest_notify(device: VhostDevice) -> Procedure:
    """Deassign every ring's irqfd."""
    if device.guest_notifiers:
        yield Change(Phase.DISABLE_GUEST_NOTIFY, device.guest_edits(assign=False))
        device.guest_notifiers = False


def disable_host_notify(device: VhostDevice) -> Procedure:
    """Deassign every ring's ioeventfd."""
    if device.host_notifiers:
        yield Change(Phase.DISABLE_HOST_NOTIFY, device.host_edits(assign=False))
        device.host_notifiers = False


def enable_host_notify(device: VhostDevice) -> Procedure:
    """Assign every ring's ioeventfd."""
    if not device.host_notifiers:
        yield Change(Phase.ENABLE_HOST_NOTIFY, device.host_edits(assign=True))
        device.host_notifiers = True


def enable_guest_notify(device: VhostDevice) -> Procedure:
    """Assign every ring's irqfd."""
    if not device.guest_notifiers:
        yield Change(Phase.ENABLE_GUEST_NOTIFY, device.guest_edits(assign=True))
        device.guest_notifiers = True


def reset(device: VhostDevice) -> Procedure:
    """The guest's driver resets the device: its rings stop, and are forgotten."""
    yield from stop(device)
    device.forget_rings()


def activate(device: VhostDevice, addresses: Sequence[RingAddresses | None]) -> Procedure:
    """The guest's driver has set up its rings: they start at index 0.

    Raises:
        UsageError: the rings are already started; the driver has to reset the device first.
    """
    if any(ring.started for ring in device.rings):
        raise UsageError(
            "its rings are started: reset it before they are set up", device=device.name
        )
    device.set_up_rings(addresses)
    yield from start(device)


def _base_of(device: VhostDevice, ring: Vring, payload: object) -> int:
    if isinstance(payload, VringState) and payload.num <= MAX_BASE:
        return payload.num
    base = f"{payload.num:#x}" if isinstance(payload, VringState) else "no value"
    error = BackendError(
        f"sent {base} as the base of a split ring",
        device=device.name,
        ring=ring.index,
        message="GET_VRING_BASE",
    )
    # The ring's base is unknown now.
    device.connection.mark_broken(error.text)
    raise error


def start(device: VhostDevice) -> Procedure:
    """Assign the notifiers, send memory table and rings, and enable the rings.

    The messages of a ring are in the order that all back-ends accept: size, base, addresses, and
    only then the kick, which starts it.
    """
    yield from enable_host_notify(device)
    yield from enable_guest_notify(device)
    rings = [ring for ring in device.configured_rings() if not ring.started]
    if not rings:
        return
    yield from _send_memory(device, rings)
    requests: list[Request] = []
    for ring in rings:
        requests += [
            _num(ring),
            Request(FrontendRequest.SET_VRING_BASE, VringState(ring.index, ring.base)),
            _addr(ring, logged=device.logging),
            _call(ring),
            _kick(ring),
            *_enable(device, ring),
        ]
    yield Ask.of(Phase.START_VRINGS, device.connection, _confirmed(device, requests))
    for ring in rings:
        ring.mark_started()


def start_ahead(device: VhostDevice) -> Procedure:
    """`start` at a migration's destination, as much of it as possible before the switchover.

    The messages before `AwaitSwitchover` do not depend on the contents of guest memory: memory
    table, ring sizes, call and kick descriptors, and addresses. A back-end may read the used index
    when it receives the addresses (libvhost-user does), so they are sent again after the
    switchover, with the bases and SET_VRING_ENABLE.
    """
    yield from enable_host_notify(device)
    yield from enable_guest_notify(device)
    rings = [ring for ring in device.configured_rings() if not ring.started]
    if not rings:
        yield AwaitSwitchover()
        return
    yield from _send_memory(device, rings)
    yield Ask.of(Phase.START_VRINGS, device.connection, _early_setup(device, rings))
    prepared = _late_setup(device, rings)
    yield AwaitSwitchover()
    prepared.set_nums([ring.base for ring in rings])
    yield Ask(Phase.START_VRINGS, device.connection, prepared)
    for ring in rings:
        ring.mark_started()


def _confirmed(device: VhostDevice, requests: Sequence[Request]) -> list[Request]:
    """The requests, such that the last one's reply confirms that all have been handled.

    A back-end handles messages in order, and closes the connection if one fails for which no
    acknowledgement was requested: so the answer to the last one confirms all. Without REPLY_ACK a
    GET_FEATURES follows, which is always answered, as in QEMU (d7dc0682f5).
    """
    *others, last = requests
    if ProtocolFeature.REPLY_ACK in device.connection.protocol_features:
        return [*others, last._replace(need_reply=True)]
    return [*others, last, Request(FrontendRequest.GET_FEATURES)]


def _send_memory(device: VhostDevice, rings: list[Vring]) -> Procedure:
    if device.needs_inflight:
        asked = _ask_inflight(device, rings)
        replies = yield Ask.of(Phase.SET_MEM_TABLE, device.connection, asked)
        device.inflight = _inflight_of(device, replies[-1] if replies else None)
    yield Ask.of(Phase.SET_MEM_TABLE, device.connection, _memory(device))


def _ask_inflight(device: VhostDevice, rings: list[Vring]) -> list[Request]:
    """In QEMU's order: the features, then the region.

    The device keeps the region, also for another back-end process, until the driver resets the
    device or sets up its rings again.
    """
    size = max(_addresses(ring).size for ring in rings)
    return [
        Request(FrontendRequest.SET_FEATURES, U64(device.features)),
        Request(FrontendRequest.GET_INFLIGHT_FD, Inflight(0, 0, len(device.rings), size)),
    ]


def _inflight_of(device: VhostDevice, reply: Reply | None) -> InflightFile | None:
    """The region of a reply.

    None if the reply has no descriptor: the back-end has no region after all (the mmap size in the
    reply is then 0).
    """
    if reply is None or not isinstance(reply.payload, Inflight):
        raise BackendError("sent no inflight region", device=device.name, message="GET_INFLIGHT_FD")
    if not reply.fds:
        return None
    return InflightFile(reply.fds[0], reply.payload)


def _memory(device: VhostDevice) -> list[Request]:
    table, fds = device.mem_table()
    requests = [Request(FrontendRequest.SET_FEATURES, U64(device.features))]
    if device.inflight is not None and device.tracks_inflight:
        fd, area = device.inflight
        requests.append(Request(FrontendRequest.SET_INFLIGHT_FD, area, (fd,)))
    requests.append(Request(FrontendRequest.SET_MEM_TABLE, table, fds))
    return _confirmed(device, requests)


def _early_setup(device: VhostDevice, rings: list[Vring]) -> list[Request]:
    """NUM, CALL, ADDR and KICK of each ring: what can be sent before the switchover.

    The base is not known yet. The ring is not processed without it: SET_VRING_ENABLE follows the
    base, and where there is no SET_VRING_ENABLE, the kick is not signalled before. The addresses
    are sent again after the switchover, for back-ends that read the used index when they receive
    them. They are sent here as well because DPDK's vhost library translates the addresses of a
    disabled ring for the first time when it gets the KICK (vhost_user_set_vring_kick in 22.11).

    A ring that was started before gets its ADDR and KICK later: with a kick pending in the eventfd,
    a back-end that had both now would start it from an old base.
    """
    requests = []
    for ring in rings:
        requests += [_num(ring), _call(ring)]
        if not ring.ran:
            requests += [_addr(ring, logged=device.logging), _kick(ring)]
    return requests


def _num(ring: Vring) -> Request:
    return Request(FrontendRequest.SET_VRING_NUM, VringState(ring.index, _addresses(ring).size))


def _call(ring: Vring) -> Request:
    return Request(FrontendRequest.SET_VRING_CALL, U64(ring.index), (ring.call_fd,))


def _kick(ring: Vring) -> Request:
    return Request(FrontendRequest.SET_VRING_KICK, U64(ring.index), (ring.kick_fd,))


def _enable(device: VhostDevice, ring: Vring) -> list[Request]:
    """SET_VRING_ENABLE; nothing without VHOST_USER_F_PROTOCOL_FEATURES: all rings are enabled.

    Raises:
        BackendError: the ring is to be disabled, and the feature was not negotiated.
    """
    if device.has_feature(VHOST_USER_F_PROTOCOL_FEATURES):
        state = VringState(ring.index, int(ring.enabled))
        return [Request(FrontendRequest.SET_VRING_ENABLE, state)]
    if not ring.enabled:
        raise BackendError(
            "the back-end does not offer VHOST_USER_F_PROTOCOL_FEATURES: a ring cannot be disabled",
            device=device.name,
            ring=ring.index,
        )
    return []


def _late_setup(device: VhostDevice, rings: list[Vring]) -> Batch:
    """BASE, ADDR and ENABLE of each ring, and before ENABLE its KICK if that was not sent before.

    They are encoded before the switchover and sent after it, when the bases are known. The BASE
    messages of all rings come first, and so on: back-ends that handle messages of the same kind
    together take less time.
    """
    requests = [
        Request(FrontendRequest.SET_VRING_BASE, VringState(ring.index, 0)) for ring in rings
    ]
    requests += [_addr(ring, logged=device.logging) for ring in rings]
    requests += [_kick(ring) for ring in rings if ring.ran]
    for ring in rings:
        requests += _enable(device, ring)
    return device.connection.prepare(_confirmed(device, requests))


def _addr(ring: Vring, *, logged: bool) -> Request:
    where = _addresses(ring)
    address = VringAddr(
        ring=ring.index,
        flags=VRING_F_LOG if logged else 0,
        desc=USER_ADDRESS_BASE + where.desc,
        used=USER_ADDRESS_BASE + where.used,
        avail=USER_ADDRESS_BASE + where.avail,
        log=where.used,
    )
    return Request(FrontendRequest.SET_VRING_ADDR, address)


def _addresses(ring: Vring) -> RingAddresses:
    if ring.addresses is None:
        raise UsageError("the driver has not set the ring up", ring=ring.index)
    return ring.addresses


def set_logging(device: VhostDevice, log: DirtyLog | None) -> Procedure:
    """Enable the dirty log, or disable it when ``log`` is None.

    The order is that of QEMU's vhost_migration_log: log base, then LOG_ALL, then the flag of
    every ring (vhost-user, "Migration").

    Raises:
        BackendError: the back-end does not support the dirty log.
    """
    if log is not None:
        device.require_dirty_log()
    elif not device.logging:
        return
    device.logging = log is not None
    requests: list[Request] = []
    if log is not None:
        requests.append(
            Request(FrontendRequest.SET_LOG_BASE, LogArea(log.size, 0), (log.fd,)),
        )
    requests.append(Request(FrontendRequest.SET_FEATURES, U64(device.features)))
    requests += [_addr(ring, logged=log is not None) for ring in device.rings if ring.started]
    yield Ask.of(Phase.DIRTY_LOG, device.connection, _confirmed(device, requests))
