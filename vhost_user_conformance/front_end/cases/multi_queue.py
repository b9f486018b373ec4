"""VU-F-11xx: the number of queues."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import Severity, check, unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("multi_queue", FRONT_END, "Multiple queue support", needs=("MQ",))


@area.case(
    1101,
    "GET_QUEUE_NUM comes before a second queue is used",
    severity=Severity.SHOULD,
)
def ask_first(fe: FrontEnd) -> None:
    recording = fe.plain()
    single = fe.device_class.rings_per_queue
    many = [each for each in recording.messages if each.ring is not None and each.ring >= single]
    if not many:
        unsupported("the front-end has no more than one queue")
    asked = [each for each in recording.of(F.GET_QUEUE_NUM) if each.at < many[0].at]
    check(asked, "GET_QUEUE_NUM before it", f"{many[0]} of ring {many[0].ring} without it")


@area.each(
    1102,
    (1, 2),
    "Where GET_QUEUE_NUM returns {0}, no further queue is used",
    severity=Severity.SHOULD,
)
def few(fe: FrontEnd, count: int) -> None:
    recording = fe.session(Script(f"{count} queues", queues=count))
    # The control queue of a NIC follows its pairs, and is not counted by GET_QUEUE_NUM.
    limit = count * fe.device_class.rings_per_queue
    kicks = [each for each in recording.of(F.SET_VRING_KICK) if (each.ring or 0) >= limit]
    check(not kicks, f"rings below {limit} only", f"{kicks[:1]} of ring {kicks and kicks[0].ring}")


@area.case(
    1104,
    "No ring of a back-end with 0 queues is started",
    severity=Severity.SHOULD,
)
def none(fe: FrontEnd) -> None:
    recording = fe.session(Script("no queues", queues=0))
    recording.some(F.GET_QUEUE_NUM)
    kicks = recording.of(F.SET_VRING_KICK)
    check(not kicks, "no SET_VRING_KICK", f"{kicks[:1]}")


@area.case(1105, "Without MQ one queue is used", severity=Severity.SHOULD)
def without_mq(fe: FrontEnd) -> None:
    if not fe.device_class.queue_without_mq:
        unsupported("the number of rings of one queue depends on the device")
    # A NIC's control queue follows its pair.
    limit = fe.device_class.ring_limit(1)
    script = Script("without MQ", protocol_without=int(ProtocolFeature.MQ))
    kicks = [each for each in fe.session(script).of(F.SET_VRING_KICK) if (each.ring or 0) >= limit]
    check(not kicks, f"rings below {limit} only", f"{kicks[:1]} of ring {kicks and kicks[0].ring}")
