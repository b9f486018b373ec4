"""Handwritten recordings: messages of a front-end, as a session would have recorded them."""

from __future__ import annotations

from vhost_user.codec import VERSION
from vhost_user.features import VHOST_F_LOG_ALL, ProtocolFeature
from vhost_user.payloads import U64, Inflight, LogArea, VringAddr, VringState
from vhost_user_conformance.front_end.acts import LOG, START
from vhost_user_conformance.front_end.descriptors import EVENTFD, MEMFD, Descriptor
from vhost_user_conformance.front_end.recording import F, Received, Recording

LOG_ALL = 1 << VHOST_F_LOG_ALL
Sent = tuple[str, F, bytes, tuple[Descriptor, ...]]


def sent(number: F, payload: bytes = b"", *fds: Descriptor, act: str = START) -> Sent:
    """A message."""
    return (act, number, payload, fds)


def features(value: int, act: str = START) -> Sent:
    """SET_FEATURES."""
    return sent(F.SET_FEATURES, U64(value).pack(), act=act)


def notifier(number: F, ring: int, identity: str) -> Sent:
    """SET_VRING_KICK or SET_VRING_CALL with this eventfd."""
    return sent(number, U64(ring).pack(), Descriptor(EVENTFD, identity, 0))


def kick(ring: int, act: str = START) -> Sent:
    """A ring is started."""
    return (act, *notifier(F.SET_VRING_KICK, ring, f"kick {ring}")[1:])


def stop(ring: int, act: str = START) -> Sent:
    """A ring is stopped."""
    return sent(F.GET_VRING_BASE, VringState(ring, 0).pack(), act=act)


def enable(ring: int, on: int, act: str = START) -> Sent:
    """SET_VRING_ENABLE."""
    return sent(F.SET_VRING_ENABLE, VringState(ring, on).pack(), act=act)


def size(descriptors: int, ring: int = 0) -> Sent:
    """SET_VRING_NUM."""
    return sent(F.SET_VRING_NUM, VringState(ring, descriptors).pack())


def parts(desc: int, avail: int, used: int, act: str = START) -> Sent:
    """SET_VRING_ADDR of ring 0."""
    return sent(F.SET_VRING_ADDR, VringAddr(0, 0, desc, used, avail, 0).pack(), act=act)


def asked(rings: int, descriptors: int) -> Sent:
    """GET_INFLIGHT_FD."""
    return sent(F.GET_INFLIGHT_FD, Inflight(0, 0, rings, descriptors).pack())


def log_base(size: int) -> Sent:
    """SET_LOG_BASE."""
    return sent(F.SET_LOG_BASE, LogArea(size, 0).pack(), Descriptor(MEMFD, "log", size), act=LOG)


def logged_ring() -> Sent:
    """SET_VRING_ADDR with F_LOG."""
    return sent(F.SET_VRING_ADDR, VringAddr(0, 1, 0, 0, 0, 4096).pack(), act=LOG)


def region(act: str, *fds: Descriptor) -> Sent:
    """SET_INFLIGHT_FD."""
    return sent(F.SET_INFLIGHT_FD, Inflight(4096, 0, 1, 64).pack(), *fds, act=act)


def recorded(*messages: Sent, protocol: int = int(ProtocolFeature.REPLY_ACK)) -> Recording:
    """A recording of these messages."""
    recording = Recording(acts=list(dict.fromkeys(act for act, *_ in messages)))
    acked: int | None = None
    for at, (act, number, payload, fds) in enumerate(messages):
        recording.messages.append(
            Received(at, act, number, VERSION, payload, fds, acked, protocol, False, at)
        )
        if number == F.SET_FEATURES:
            acked = U64.unpack(payload).value
    return recording
