"""VU-F-08xx: the log of dirty memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import VHOST_F_LOG_ALL, ProtocolFeature
from vhost_user.payloads import LogArea
from vhost_user_conformance.front_end.acts import LOG, LOGGING, RESET, START
from vhost_user_conformance.front_end.descriptors import FILE, MEMFD
from vhost_user_conformance.front_end.recording import F
from vhost_user_conformance.front_end.script import Script
from vhost_user_conformance.front_end.tester import all_of
from vhost_user_conformance.model.case import FRONT_END, Area
from vhost_user_conformance.model.verdict import (
    Severity,
    check,
    observed,
    unsupported,
)

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd
    from vhost_user_conformance.peer.wire import Message

area = Area("dirty_log", FRONT_END, "Migration")
PAGE = 4096
LOG_ALL = 1 << VHOST_F_LOG_ALL


def _logged(fe: FrontEnd) -> Recording:
    recording = fe.plain()
    recording.did(LOG)
    if not recording.of(F.SET_LOG_BASE):
        unsupported("the front-end does not use the dirty log")
    return recording


def _area(each: Received) -> LogArea:
    return LogArea.unpack(each.payload[:16].ljust(16, b"\0"))


@area.case(801, "SET_LOG_BASE has a descriptor with LOG_SHMFD", needs=("LOG_SHMFD",))
def log_descriptor(fe: FrontEnd) -> None:
    all_of(
        _logged(fe).some(F.SET_LOG_BASE),
        lambda each: len(each.fds) == 1 and each.fds[0].kind in (MEMFD, FILE),
        "a memfd or another mappable file",
    )


@area.case(802, "The log lies inside its file", needs=("LOG_SHMFD",))
def inside_file(fe: FrontEnd) -> None:
    all_of(
        _logged(fe).some(F.SET_LOG_BASE),
        lambda each: each.fds and _area(each).offset + _area(each).size <= each.fds[0].size,
        "a file of at least offset + size bytes",
    )


@area.case(803, "The log has a bit for each page up to the end of guest memory")
def large_enough(fe: FrontEnd) -> None:
    recording = _logged(fe)
    for each in recording.some(F.SET_LOG_BASE):
        regions = recording.table_at(each.at)
        check(regions, "guest memory before it", f"{each} came first")
        end = max(region.gpa + region.size for region in regions)
        need = -(-end // (PAGE * 8))
        check(_area(each).size >= need, f"at least {need} bytes", f"{each}: {_area(each).size}")


@area.case(804, "SET_LOG_BASE comes before LOG_ALL is acknowledged")
def base_first(fe: FrontEnd) -> None:
    recording = _logged(fe)
    base = recording.first(F.SET_LOG_BASE)
    early = [each for each in recording.of(F.SET_FEATURES) if each.u64 & LOG_ALL][:1]
    check(early and early[0].at > base.at, "SET_LOG_BASE before LOG_ALL", f"{early}")


@area.case(805, "LOG_ALL is acknowledged while the VM is migrated, and not before")
def features(fe: FrontEnd) -> None:
    recording = _logged(fe)
    on = [each for each in recording.of(F.SET_FEATURES) if each.u64 & LOG_ALL]
    check(
        on and all(each.act == LOG for each in on), "LOG_ALL during the migration only", f"{on[:1]}"
    )


@area.case(806, "Each running ring gets a log address with F_LOG")
def ring_logged(fe: FrontEnd) -> None:
    recording = _logged(fe)
    running = {each.ring for each in recording.of(F.SET_VRING_KICK)}
    logged = {
        each.ring for each in recording.of(F.SET_VRING_ADDR, act=LOG) if each.address.flags & 1
    }
    check(running <= logged, f"SET_VRING_ADDR with F_LOG for rings {running}", f"for {logged}")


def _log_addresses(fe: FrontEnd) -> list[tuple[Received, int]]:
    """Messages with F_LOG, and the size of each ring's used part in bytes."""
    recording = _logged(fe)
    sizes = {each.state.ring: each.state.num for each in recording.of(F.SET_VRING_NUM)}
    found = [each for each in recording.of(F.SET_VRING_ADDR) if each.address.flags & 1]
    if not found:
        unsupported("the front-end does not set F_LOG")
    return [(each, 4 + 8 * sizes.get(each.address.ring, 0)) for each in found]


@area.case(807, "A used ring's log address is its guest address")
def log_address(fe: FrontEnd) -> None:
    recording = fe.plain()
    for each, _ in _log_addresses(fe):
        addresses = [
            each.address.used - region.user_addr + region.gpa
            for region in recording.table_at(each.at)
            if region.user_addr <= each.address.used < region.user_addr + region.size
        ]
        check(addresses, "a used ring in guest memory", f"{each}: {each.address.used:#x}")
        gpa = addresses[0]
        check(each.address.log == gpa, f"{gpa:#x}", f"{each}: {each.address.log:#x}")


@area.case(808, "The last byte of a used ring has its bit in the log")
def address_in_log(fe: FrontEnd) -> None:
    recording = fe.plain()
    for each, length in _log_addresses(fe):
        logs = [one for one in recording.of(F.SET_LOG_BASE) if one.at < each.at]
        check(logs, "SET_LOG_BASE before it", f"{each} came first")
        end = _area(logs[-1]).size * 8 * PAGE
        last = each.address.log + length - 1
        check(last < end, f"an address below {end:#x}", f"{each}: {last:#x}")


@area.case(809, "Logging is off when the VM continues", severity=Severity.SHOULD)
def off_again(fe: FrontEnd) -> None:
    recording = _logged(fe)
    base = recording.of(F.SET_LOG_BASE)[-1]
    later = [each for each in recording.after(base) if each.id == F.SET_FEATURES]
    check(later, "SET_FEATURES after the last SET_LOG_BASE", "none came")
    last = later[-1]
    check(not last.u64 & LOG_ALL, "SET_FEATURES without LOG_ALL", f"{last}: {last.u64:#x}")


@area.case(
    815, "After logging was switched off running rings have no F_LOG", severity=Severity.SHOULD
)
def ring_off_again(fe: FrontEnd) -> None:
    recording = _logged(fe)
    off = [
        each
        for each in recording.of(F.SET_FEATURES, act=LOG)
        if (each.features or 0) & LOG_ALL and not each.u64 & LOG_ALL
    ]
    end = max(each.at for each in recording.messages if each.act == LOG) + 1
    running = recording.running(end)
    if not off or not running:
        unsupported("logging is not switched off while a ring runs")
    last = {each.ring: each for each in recording.of(F.SET_VRING_ADDR) if each.at < end}
    on = [each for ring, each in last.items() if ring in running and each.address.flags & 1]
    check(not on, "SET_VRING_ADDR without F_LOG", f"{on[:1]} of ring {on and on[0].ring}")


@area.case(816, "The log can be mapped shared and writable", needs=("LOG_SHMFD",))
def mappable(fe: FrontEnd) -> None:
    recording = _logged(fe)
    all_of(
        recording.some(F.SET_LOG_BASE),
        lambda each: each.at not in recording.unmapped,
        "a file that can be mapped writable",
    )


@area.case(817, "A ring that is started while memory is logged has F_LOG")
def started_while_logged(fe: FrontEnd) -> None:
    _logged(fe)
    recording = fe.session(Script("a reset while memory is logged", (START, LOGGING, RESET)))
    recording.did(LOGGING)
    addresses: dict[int | None, Received] = {}
    kicks = 0
    for each in recording.messages:
        if each.id == F.SET_VRING_ADDR:
            addresses[each.ring] = each
        elif each.id == F.SET_VRING_KICK and (each.features or 0) & LOG_ALL:
            kicks += 1
            last = addresses.get(each.ring)
            on = last is not None and last.address.flags & 1
            check(on, f"SET_VRING_ADDR with F_LOG before {each}", f"{last} without it")
    if not kicks:
        unsupported("no ring was started while LOG_ALL was acknowledged")


@area.case(810, "LOG_ALL is not acknowledged where it is not offered")
def not_offered(fe: FrontEnd) -> None:
    recording = fe.session(Script("without LOG_ALL", (START, LOG), without=LOG_ALL))
    all_of(recording.some(F.SET_FEATURES), lambda each: not each.u64 & LOG_ALL, "bit 26 clear")


@area.case(811, "Without LOG_SHMFD SET_LOG_BASE has no descriptor")
def no_shmfd(fe: FrontEnd) -> None:
    without = int(ProtocolFeature.LOG_SHMFD)
    recording = fe.session(Script("without LOG_SHMFD", (START, LOG), protocol_without=without))
    if LOG in recording.acts:
        all_of(recording.of(F.SET_LOG_BASE), lambda each: not each.fds, "no descriptor")


@area.each(
    812,
    (0, 8, 16),
    "A reply to SET_LOG_BASE of {} bytes is accepted",
    severity=Severity.SHOULD,
    needs=("LOG_SHMFD",),
)
def reply_sizes(fe: FrontEnd, size: int) -> None:
    """The specification is contradictory, and each size is used by a back-end."""

    def react(session: ScriptedSession, message: Message) -> None:
        session.mark("a reply to SET_LOG_BASE")
        session.reply(message.id, message.payload[:size] if size == 16 else bytes(size))

    _logged(fe)
    script = Script(
        f"{size} bytes to SET_LOG_BASE", (START, LOG), reactions=((F.SET_LOG_BASE, react),)
    )
    recording = fe.session(script)
    since = recording.since("a reply to SET_LOG_BASE")
    on = [each for each in since if each.id == F.SET_FEATURES and each.u64 & LOG_ALL]
    if not on:
        observed(f"LOG_ALL is not acknowledged after it: {[str(each) for each in since[:2]]}")
