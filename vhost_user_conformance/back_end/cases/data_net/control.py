"""VU-B-2280 to 2299: MTU, RARP, and disabled rings of a NIC."""

from __future__ import annotations

from vhost_user.features import VIRTIO_F_VERSION_1
from vhost_user_conformance.back_end.cases.data_net import area
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd, F, u64
from vhost_user_conformance.back_end.nic import frame_of, laid_out, send, sender
from vhost_user_conformance.back_end.requests import QUIET
from vhost_user_conformance.model.verdict import Severity, check, observed, unsupported
from vhost_user_conformance.peer.device_work import NET_F_MTU, NET_HEADER
from vhost_user_conformance.peer.wire import Closed

_MTU, _RARP = "VHOST_USER_NET_SET_MTU", "VHOST_USER_SEND_RARP"
_MAC = 0x0100_4F4D_C002  # 02:c0:4d:4f:00:01, its first byte lowest


def _agreed(be: BackEnd) -> None:
    """Negotiate, with VIRTIO_NET_F_MTU."""
    be.read_features()
    if not be.features >> NET_F_MTU & 1:
        unsupported("VIRTIO_NET_F_MTU is not offered")
    be.negotiate("NET_MTU", features=1 << VIRTIO_F_VERSION_1 | PROTOCOL_BIT | 1 << NET_F_MTU)


@area.each(
    2280,
    (68, 1500, 9000, 65535),
    "An MTU of {} is acknowledged, or refused with a code",
    device="net",
    spec=_MTU,
    needs=("NET_MTU", "REPLY_ACK"),
)
def mtu(be: BackEnd, value: int) -> None:
    _agreed(be)
    code = be.acked_with(F.NET_SET_MTU, u64(value))
    be.check_responds("after its MTU was set")
    check(not code or value != 1500, "an MTU of 1500 to be accepted", f"refused with {code}")
    if code:
        observed(f"it is refused with {code}")


@area.each(
    2284,
    (0, 67, 65536, (1 << 32) + 1500),
    "An MTU of {} is refused",
    device="net",
    spec=_MTU,
    severity=Severity.SHOULD,
    needs=("NET_MTU", "REPLY_ACK"),
)
def no_mtu(be: BackEnd, value: int) -> None:
    _agreed(be)
    be.not_done(F.NET_SET_MTU, u64(value))


@area.case(
    2288, "An MTU may be set again while rings run", device="net", spec=_MTU, needs=("NET_MTU",)
)
def mtu_while_running(be: BackEnd) -> None:
    ring = sender(be)
    for value in (1500, 1400, 1500):
        be.accepted(F.NET_SET_MTU, u64(value))
        send(be, ring, laid_out(ring.memory, bytes(NET_HEADER) + frame_of(60), ()))


@area.case(
    2289,
    "NET_SET_MTU without need_reply is not answered",
    device="net",
    spec=_MTU,
    needs=("NET_MTU",),
)
def mtu_unanswered(be: BackEnd) -> None:
    _agreed(be)
    be.send(F.NET_SET_MTU, u64(1500))
    be.check_responds("with no unsolicited acknowledgement")


@area.case(
    2290,
    "SEND_RARP is accepted, and the rings continue",
    device="net",
    spec=_RARP,
    needs=("RARP",),
    severity=Severity.SHOULD,
)
def rarp(be: BackEnd) -> None:
    ring = be.working_ring("RARP")
    be.serve(ring)
    for _ in range(3):
        be.accepted(F.SEND_RARP, u64(_MAC))
        be.serve(ring)


@area.case(
    2291,
    "SEND_RARP without need_reply is not answered",
    device="net",
    spec=_RARP,
    needs=("RARP",),
    severity=Severity.SHOULD,
)
def rarp_unanswered(be: BackEnd) -> None:
    be.working_ring("RARP")
    be.send(F.SEND_RARP, u64(_MAC))
    be.check_responds("with no unsolicited acknowledgement")


@area.case(
    2292,
    "SEND_RARP before a ring is set up is survived",
    device="net",
    spec=_RARP,
    needs=("RARP",),
    severity=Severity.SHOULD,
)
def rarp_early(be: BackEnd) -> None:
    be.negotiate("RARP")
    be.accepted(F.SEND_RARP, u64(_MAC))
    ring = be.ring(be.memory(), be.work.ring)
    be.start(ring)
    be.serve(ring)


@area.case(
    2293,
    "SEND_RARP while all rings are stopped writes no guest memory",
    device="net",
    spec=_RARP,
    needs=("RARP",),
)
def rarp_suspended(be: BackEnd) -> None:
    ring = be.working_ring("RARP")
    be.serve(ring)
    be.stop_all()
    region = ring.memory.regions[0]
    before = ring.memory.read(region.gpa, region.size)
    be.accepted(F.SEND_RARP, u64(_MAC))
    be.check_idle(ring)
    after = ring.memory.read(region.gpa, region.size)
    check(after == before, "guest memory as it was", "it was written to")


@area.each(
    2294,
    (0, 0xFFFF_FFFF_FFFF, 1 << 63 | _MAC),
    "SEND_RARP of {:#x} is survived",
    device="net",
    spec=_RARP,
    severity=Severity.SHOULD,
    needs=("RARP",),
)
def rarp_of_any_address(be: BackEnd, value: int) -> None:
    ring = be.working_ring("RARP")
    try:
        be.send(F.SEND_RARP, u64(value))
        be.barrier()
    except Closed:
        observed("it closed the connection")
    be.serve(ring)


@area.case(
    2298, "Frames that a disabled ring sends are read and dropped", device="net", spec="Ring states"
)
def disabled(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.enable(ring, on=False)
    be.barrier()
    jobs = [be.work.post(ring.memory, ring) for _ in range(5)]
    ring.kick()
    be.await_used(ring, 1 + len(jobs))
    for job in jobs:
        be.check_completed(ring, job)


@area.case(
    2299,
    "Frames that are sent while a ring is disabled do not affect it once it is enabled",
    device="net",
    spec="Ring states",
)
def disabled_and_enabled(be: BackEnd) -> None:
    ring = be.working_ring()
    be.serve(ring)
    be.enable(ring, on=False)
    be.barrier()
    jobs = [be.work.post(ring.memory, ring) for _ in range(4)]
    ring.kick()
    ring.await_used(5, QUIET)
    be.enable(ring)
    be.barrier()
    ring.kick()
    be.await_used(ring, 5)
    for job in jobs:
        be.check_completed(ring, job)
    be.serve(ring)
