"""VU-F-13xx: the back-end channel and the requests on it."""

from __future__ import annotations

import contextlib
import os
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.messages import BackendRequest
from vhost_user.payloads import Iotlb, Mmap, SharedUuid, VringArea, VringState
from vhost_user_conformance.front_end.acts import ASKED, START
from vhost_user_conformance.front_end.descriptors import SOCKET, describe
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
from vhost_user_conformance.peer.wire import (
    HEADER,
    Message,
    Wire,
    WireError,
)

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.recording import Recording
    from vhost_user_conformance.front_end.script import ScriptedSession
    from vhost_user_conformance.front_end.tester import FrontEnd

area = Area("channel", FRONT_END, "Back-end communication", needs=("BACKEND_REQ",))
B = BackendRequest
_CHANGE = int(B.CONFIG_CHANGE_MSG)
ASKING = VERSION | NEED_REPLY
#: Larger than any message of the specification.
HUGE = 1 << 20
#: An IOTLB message's permission and type.
_READ, _MISS = 1, 1
#: An undefined id; the reaction to such a request is not specified.
UNKNOWN = 99
_NOTHING = ProtocolFeature(0)
NONE = "no answer"
GONE = "closed"

#: Requests that a front-end refuses here, or does not know.
REFUSED = {
    "an undefined id": (UNKNOWN, b""),
    "the host notifier of a ring that does not exist": (
        B.VRING_HOST_NOTIFIER_MSG,
        VringArea(0xFF | 1 << 8, 4096, 0).pack(),
    ),
    "SHMEM_UNMAP of an unmapped range": (B.SHMEM_UNMAP, Mmap(0, 0, 0, 4096, 0).pack()),
    "SHARED_OBJECT_REMOVE of an object that does not exist": (
        B.SHARED_OBJECT_REMOVE,
        SharedUuid(bytes(range(16))).pack(),
    ),
}


@dataclass(frozen=True)
class Question:
    """A request on the channel; equal ones share a session."""

    name: str
    number: int
    payload: bytes
    flags: int

    def __call__(self, session: ScriptedSession) -> None:
        """Send it, and record the reply."""
        answer = _exchange(session, self.number, self.payload, self.flags)
        session.recording.channel[self.name] = answer


@dataclass(frozen=True)
class Questions:
    """Requests without a payload that are sent at once."""

    name: str
    numbers: tuple[int, ...]

    def __call__(self, session: ScriptedSession) -> None:
        """Send them, and record all replies, also excess ones."""
        channel, came = session.channel, list[Message]()
        if channel is None:
            return
        with contextlib.suppress(WireError):
            channel.send_bytes(b"".join(HEADER.pack(each, ASKING, 0) for each in self.numbers))

        def answered() -> bool:
            some: list[Message] = []
            if not (came and came[-1].id < 0) and _poll(channel, some):
                came.extend(some)
                session.restart_quiet()
            over = len(came) >= len(self.numbers) or any(each.id < 0 for each in came)
            return over and session.quiet(0.3)

        session.restart_quiet()
        session.pump(answered, session.wire.timeout)
        for at, answer in enumerate(came):
            session.recording.channel[f"{self.name} {at}"] = GONE if answer.id < 0 else answer


def _exchange(session: ScriptedSession, number: int, payload: bytes, flags: int) -> Message | str:
    """Send a request. Returns the reply, or `NONE`, or `GONE`."""
    channel = session.channel
    if channel is None:
        return "the front-end sets no channel"
    try:
        channel.send(number, payload, flags=flags)
    except WireError:
        return GONE
    came: list[Message] = []

    def answered() -> bool:
        return _poll(channel, came) or (flags != ASKING and session.quiet(0.3))

    session.restart_quiet()
    session.pump(answered, session.wire.timeout)
    if not came:
        return NONE
    return GONE if came[0].id < 0 else came[0]


def _poll(channel: Wire, came: list[Message]) -> bool:
    """Receive a message if there is one; id -1 stands for the end of the channel."""
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    if poll.poll(0) and not came:
        try:
            came.append(channel.receive())
        except WireError:
            came.append(Message(-1, 0, b""))
    return bool(came)


def _asked(
    fe: FrontEnd,
    name: str,
    number: int,
    payload: bytes = b"",
    flags: int = ASKING,
    offering: ProtocolFeature = _NOTHING,
) -> tuple[Recording, Message | str]:
    """A session with this request on the channel, after rings have started.

    Raises:
        Unsupported: the front-end does not acknowledge what the session offers in addition.
    """
    question = Question(name, number, payload, flags)
    script = Script(f"asks: {name}", (START, ASKED), asks=question, protocol_offering=int(offering))
    recording = fe.session(script)
    if recording.messages and offering & ~ProtocolFeature(recording.messages[-1].protocol):
        unsupported(f"the front-end does not acknowledge {offering.name}")
    recording.did(ASKED)
    return recording, recording.channel[name]


def _asked_in_turn(fe: FrontEnd, name: str, numbers: tuple[int, ...]) -> list[Message | str]:
    """The replies to requests without a payload that are sent at once.

    Raises:
        Unsupported: no reply is required.
    """
    recording = fe.session(Script(f"asks: {name}", (START, ASKED), asks=Questions(name, numbers)))
    recording.did(ASKED)
    _require_reply_ack(recording)
    found: list[Message | str] = []
    while (answer := recording.channel.get(f"{name} {len(found)}")) is not None:
        found.append(answer)
    return found


def _require_reply_ack(recording: Recording) -> None:
    """Raises `Unsupported` if no reply is required, as REPLY_ACK was not negotiated."""
    if not recording.messages[-1].protocol & ProtocolFeature.REPLY_ACK:
        unsupported("the front-end does not acknowledge REPLY_ACK, so that no reply is required")


def _reply(fe: FrontEnd, name: str, number: int, payload: bytes = b"") -> Message:
    """As `_asked`, but returns only the reply, which is required.

    Raises:
        Failed: none came.
        Unsupported: none is required.
    """
    recording, answer = _asked(fe, name, number, payload)
    _require_reply_ack(recording)
    if answer == GONE and number == UNKNOWN:
        observed("it closed the channel after an unknown id")
    check(isinstance(answer, Message), "an acknowledgement, as need_reply is set", f"{answer}")
    assert isinstance(answer, Message)  # noqa: S101  checked
    return answer


@area.case(1301, "SET_BACKEND_REQ_FD has a socket", spec="VHOST_USER_SET_BACKEND_REQ_FD")
def is_socket(fe: FrontEnd) -> None:
    all_of(
        fe.plain().some(F.SET_BACKEND_REQ_FD),
        lambda each: [fd.kind for fd in each.fds] == [SOCKET],
        "one socket",
    )


@area.case(1302, "SET_BACKEND_REQ_FD comes before the first ring is started")
def before_rings(fe: FrontEnd) -> None:
    recording = fe.plain()
    channel, first = recording.first(F.SET_BACKEND_REQ_FD), recording.first(F.SET_VRING_KICK)
    check(channel.at < first.at, "SET_BACKEND_REQ_FD before SET_VRING_KICK", f"{first}")


@area.each(1303, REFUSED, "On the channel {} is acknowledged with a value other than 0")
def refuses(fe: FrontEnd, name: str) -> None:
    number, payload = REFUSED[name]
    answer = _reply(fe, name, number, payload)
    check(answer.u64 != 0, "a code other than 0", "acknowledged with 0")


@area.each(1310, REFUSED, "The front-end continues after {} on the channel")
def goes_on(fe: FrontEnd, name: str) -> None:
    number, payload = REFUSED[name]
    recording, _ = _asked(fe, name, number, payload)
    check(
        not recording.left and not recording.ended, "the connection to stay open", "it was closed"
    )


def _changed(fe: FrontEnd) -> Message:
    return _reply(fe, "CONFIG_CHANGE_MSG", B.CONFIG_CHANGE_MSG)


@area.case(1320, "CONFIG_CHANGE_MSG is acknowledged with 0", needs=("CONFIG",))
def config_change(fe: FrontEnd) -> None:
    answer = _changed(fe)
    check(answer.u64 == 0, "0", f"{answer.u64}")


@area.case(
    1321,
    "After CONFIG_CHANGE_MSG the configuration space of a disk is read",
    needs=("CONFIG",),
    severity=Severity.SHOULD,
)
def config_read(fe: FrontEnd) -> None:
    """The text has "can": it may also be read when the guest asks for it.

    A disk is resized in this way, and its front-end needs the size.
    """
    _changed(fe)
    recording, _ = _asked(fe, "CONFIG_CHANGE_MSG", B.CONFIG_CHANGE_MSG)
    came = bool(recording.of(F.GET_CONFIG, act=ASKED))
    if fe.device_class.name != "blk" and not came:
        observed("it is not read before the guest asks for it")
    check(came, "GET_CONFIG", "it did not come")


@area.case(1322, "An acknowledgement on the channel has flags 0x5: reply bit and version 1")
def ack_flags(fe: FrontEnd) -> None:
    answer = _reply(fe, "an undefined id", UNKNOWN)
    check(answer.flags == 5, "flags 0x5", f"{answer.flags:#x}")


@area.case(1323, "An acknowledgement on the channel has the request's id and 8 bytes")
def ack_form(fe: FrontEnd) -> None:
    answer = _reply(fe, "an undefined id", UNKNOWN)
    check(
        (answer.id, len(answer.payload)) == (UNKNOWN, 8), f"id {UNKNOWN} and 8 bytes", f"{answer}"
    )


@area.case(1324, "Without need_reply nothing is acknowledged on the channel")
def not_asked(fe: FrontEnd) -> None:
    name = "an undefined id, without need_reply"
    _, answer = _asked(fe, name, UNKNOWN, flags=VERSION)
    check(not isinstance(answer, Message), "no reply", f"{answer}")


@area.case(1334, "CONFIG_CHANGE_MSG without need_reply is not acknowledged", needs=("CONFIG",))
def change_not_asked(fe: FrontEnd) -> None:
    name = "CONFIG_CHANGE_MSG, without need_reply"
    _, answer = _asked(fe, name, B.CONFIG_CHANGE_MSG, flags=VERSION)
    check(not isinstance(answer, Message), "no reply", f"{answer}")


@area.case(
    1335, "The reply to CONFIG_CHANGE_MSG has its id, 8 bytes and flags 0x5", needs=("CONFIG",)
)
def change_form(fe: FrontEnd) -> None:
    answer = _changed(fe)
    form = (answer.id, answer.flags, len(answer.payload))
    wanted = (int(B.CONFIG_CHANGE_MSG), 5, 8)
    check(form == wanted, f"{wanted} (id, flags, bytes)", f"{form}")


@area.case(
    1336,
    "The channel stays usable after an undefined id",
    needs=("CONFIG",),
    severity=Severity.SHOULD,
)
def channel_goes_on(fe: FrontEnd) -> None:
    """The reaction to an unknown id is not specified, but each request has to be answered."""
    answers = _asked_in_turn(fe, "an unknown id, and CONFIG_CHANGE_MSG", (UNKNOWN, _CHANGE))
    if GONE in answers:
        observed("it closed the channel after an unknown id")
    ids = [answer.id if isinstance(answer, Message) else answer for answer in answers]
    check(ids == [UNKNOWN, _CHANGE], "replies to both, in their order", f"{ids}")


@area.case(1333, "Each request is answered once and in order", needs=("CONFIG",))
def once(fe: FrontEnd) -> None:
    answers = _asked_in_turn(fe, "CONFIG_CHANGE_MSG twice", (_CHANGE, _CHANGE))
    ids = [answer.id if isinstance(answer, Message) else answer for answer in answers]
    check(ids == [_CHANGE, _CHANGE], "one reply to each", f"{ids}")


def _share(fe: FrontEnd, script: Script) -> Recording:
    """A session in which the back-end uses shared objects."""
    recording = fe.session(script)
    recording.did(ASKED)
    if not recording.messages[-1].protocol & ProtocolFeature.SHARED_OBJECT:
        unsupported("the front-end does not acknowledge SHARED_OBJECT")
    return recording


#: The name of a request that has its own session.
UNKNOWN_OBJECT = "SHARED_OBJECT_LOOKUP of an object that does not exist"


def _looked_up(fe: FrontEnd) -> tuple[Recording, Message | str]:
    payload, offering = SharedUuid(bytes(range(16))).pack(), ProtocolFeature.SHARED_OBJECT
    return _asked(fe, UNKNOWN_OBJECT, B.SHARED_OBJECT_LOOKUP, payload, VERSION, offering)


@area.case(1325, "SHARED_OBJECT_LOOKUP is always answered")
def lookup(fe: FrontEnd) -> None:
    _, answer = _looked_up(fe)
    check(isinstance(answer, Message), "a reply", f"{answer}")


@area.case(
    1337,
    "SHARED_OBJECT_LOOKUP of an object that does not exist is answered with a value other than 0",
    spec="VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP",
)
def unknown_object(fe: FrontEnd) -> None:
    _, answer = _looked_up(fe)
    check(isinstance(answer, Message) and answer.u64 != 0, "a code other than 0", f"{answer}")


@area.each(
    1326,
    (B.VRING_CALL, B.VRING_ERR),
    "The reaction to {0.name} without in-band notifications",
    severity=Severity.MAY,
)
def in_band(fe: FrontEnd, number: BackendRequest) -> None:
    _, answer = _asked(fe, number.name, number, VringState(0, 0).pack())
    observed(f"acknowledged with {answer.u64}" if isinstance(answer, Message) else answer)


@area.case(1330, "A message on the channel that is too large does not end the connection")
def too_large(fe: FrontEnd) -> None:
    name = "1 MiB on the channel"
    recording, _ = _asked(fe, name, B.CONFIG_CHANGE_MSG, bytes(HUGE))
    check(
        not recording.left and not recording.ended, "the connection to stay open", "it was closed"
    )


@area.case(1331, "Random bytes on the channel do not end the connection")
def random_bytes(fe: FrontEnd) -> None:
    def ask(session: ScriptedSession) -> None:
        if session.channel is None:
            unsupported("the front-end sets no channel")
        session.channel.send_bytes(bytes(range(256)))
        session.restart_quiet()
        session.pump(lambda: session.quiet(0.5), session.wire.timeout)

    recording = fe.session(Script("random bytes on the channel", (START, ASKED), asks=ask))
    recording.did(ASKED)
    check(
        not recording.left and not recording.ended, "the connection to stay open", "it was closed"
    )


@area.case(1332, "A channel that the back-end closes does not end the connection")
def closed(fe: FrontEnd) -> None:
    def ask(session: ScriptedSession) -> None:
        session.close_channel()
        session.restart_quiet()
        session.pump(lambda: session.quiet(0.5), session.wire.timeout)

    recording = fe.session(Script("the channel is closed", (START, ASKED), asks=ask))
    recording.did(ASKED)
    check(
        not recording.left and not recording.ended, "the connection to stay open", "it was closed"
    )


@area.case(1390, "The reaction to IOTLB_MSG without an IOMMU", severity=Severity.MAY)
def iotlb_miss(fe: FrontEnd) -> None:
    payload = Iotlb(0, 4096, 0, _READ, _MISS).pack()
    _, answer = _asked(fe, "IOTLB_MSG of a miss", B.IOTLB_MSG, payload)
    observed(f"acknowledged with {answer.u64}" if isinstance(answer, Message) else answer)


@area.case(1391, "SHMEM_MAP without a descriptor is acknowledged with a value other than 0")
def nothing_to_map(fe: FrontEnd) -> None:
    answer = _reply(fe, "SHMEM_MAP of nothing", B.SHMEM_MAP, Mmap(0, 0, 0, 4096, 0).pack())
    check(answer.u64 != 0, "a code other than 0", "acknowledged with 0")


#: The back-end's object, and the file that its descriptor is of.
UUID = bytes(range(16, 32))
ADDED, FOUND, REMOVED, AFTER = "added", "found", "removed", "looked up again"


def _provide(session: ScriptedSession, message: Message) -> None:
    """Reply to GET_SHARED_OBJECT with the descriptor of a file."""
    fd = os.memfd_create("shared object")
    session.mark(describe(fd).identity)
    session.reply(message.id, b"", (fd,))
    os.close(fd)


def _use_an_object(session: ScriptedSession) -> None:
    """The back-end adds an object, looks it up, removes it, and looks it up again."""
    for name, number in (
        (ADDED, B.SHARED_OBJECT_ADD),
        (FOUND, B.SHARED_OBJECT_LOOKUP),
        (REMOVED, B.SHARED_OBJECT_REMOVE),
        (AFTER, B.SHARED_OBJECT_LOOKUP),
    ):
        answer = _exchange(session, number, SharedUuid(UUID).pack(), ASKING)
        session.recording.channel[name] = answer
        if isinstance(answer, Message):
            session.recording.channel_files[name] = [describe(fd).identity for fd in answer.fds]
            answer.close()


SHARED = Script(
    "an object is shared",
    (START, ASKED),
    protocol_offering=int(ProtocolFeature.SHARED_OBJECT),
    reactions=((F.GET_SHARED_OBJECT, _provide),),
    asks=_use_an_object,
)


@area.case(1392, "SHARED_OBJECT_ADD is acknowledged with 0 where SHARED_OBJECT was negotiated")
def shared(fe: FrontEnd) -> None:
    recording = _share(fe, SHARED)
    _require_reply_ack(recording)
    answer = recording.channel[ADDED]
    check(isinstance(answer, Message) and answer.u64 == 0, "acknowledged with 0", f"{answer}")


def _found(fe: FrontEnd) -> Recording:
    """A session in which the front-end has answered the lookup of an object with 0."""
    recording = _share(fe, SHARED)
    answer = recording.channel[FOUND]
    if isinstance(answer, Message) and answer.u64 and not recording.of(F.GET_SHARED_OBJECT):
        unsupported("the front-end does not ask the back-end that looks its own object up")
    return recording


@area.case(
    1338,
    "The object of a SHARED_OBJECT_LOOKUP is asked for by its UUID",
    spec="VHOST_USER_GET_SHARED_OBJECT",
)
def asked_by_uuid(fe: FrontEnd) -> None:
    all_of(
        _found(fe).some(F.GET_SHARED_OBJECT),
        lambda each: each.payload == SharedUuid(UUID).pack(),
        f"the payload {UUID.hex()}",
    )


@area.case(
    1339,
    "SHARED_OBJECT_LOOKUP is answered with 0 and the object's descriptor, on the channel",
    spec="VHOST_USER_BACKEND_SHARED_OBJECT_LOOKUP",
)
def found_on_the_channel(fe: FrontEnd) -> None:
    recording = _found(fe)
    answer = recording.channel[FOUND]
    check(isinstance(answer, Message), "a reply on the channel", f"{answer}")
    files = recording.channel_files[FOUND]
    given = [what for _, what in recording.marks]
    code = answer.u64 if isinstance(answer, Message) else -1
    check(code == 0 and files == given[:1], f"0 and the file {given[:1]}", f"{code} and {files}")


@area.case(
    1340,
    "An object that was removed is not found any more",
    spec="VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE",
)
def removed(fe: FrontEnd) -> None:
    recording = _found(fe)
    answer = recording.channel[AFTER]
    code = answer.u64 if isinstance(answer, Message) else 0
    files = recording.channel_files.get(AFTER, [])
    check(code and not files, "a code other than 0, and no descriptor", f"{answer} with {files}")


@area.case(
    1341,
    "The owner's SHARED_OBJECT_REMOVE is acknowledged with 0",
    spec="VHOST_USER_BACKEND_SHARED_OBJECT_REMOVE",
)
def removal(fe: FrontEnd) -> None:
    recording = _found(fe)
    _require_reply_ack(recording)
    answer = recording.channel[REMOVED]
    check(isinstance(answer, Message) and answer.u64 == 0, "acknowledged with 0", f"{answer}")


@area.case(
    1342,
    "GET_SHARED_OBJECT is sent for objects that the back-end has added, and for no others",
    spec="VHOST_USER_GET_SHARED_OBJECT",
)
def not_asked_for_unknown(fe: FrontEnd) -> None:
    asked = _looked_up(fe)[0].of(F.GET_SHARED_OBJECT)
    check(not asked, "no GET_SHARED_OBJECT, as nothing was added", f"{asked[:1]}")
