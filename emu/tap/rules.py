"""Rules of the protocol that can be checked on the wire, each by the id of its case.

`RULES` has the sentence of each id, as the conformance suite has it; ``VU-F-`` is broken by the
front-end, ``VU-B-`` by the back-end, and ``header-06`` is a rule of the suite's matrix that has
several cases. What a peer may do is not judged, and nothing that is not on the wire: the rings
themselves, and whether a kick was sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.tap.connection import Sender
from vhost_user.codec import NEED_REPLY, REPLY, REPLY_FLAGS, VERSION, fd_range
from vhost_user.features import (
    VHOST_USER_F_PROTOCOL_FEATURES,
    ProtocolFeature,
    missing_dependencies,
)
from vhost_user.messages import FRONTEND_MESSAGES, FrontendRequest
from vhost_user.payloads import U64, VRING_F_LOG, VRING_INDEX_MASK, VRING_NO_FD, VringAddr
from vhost_user.payloads import VringState as State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.tap.message import Message
    from emu.tap.session import ObservedSession

_F, _P = FrontendRequest, ProtocolFeature
#: Descriptors of a message at most (spec, "Header").
_MAX_FDS = 8
_MAX_RING_SIZE = 32768
#: In the order of the cases VU-F-0230 and so on.
_GATED = (
    "MQ", "RARP", "NET_MTU", "BACKEND_REQ", "CROSS_ENDIAN", "CRYPTO_SESSION", "PAGEFAULT", "CONFIG",
    "INFLIGHT_SHMFD", "RESET_DEVICE", "INBAND_NOTIFICATIONS", "CONFIGURE_MEM_SLOTS", "STATUS",
    "SHARED_OBJECT", "DEVICE_STATE", "SHMEM", "GET_VRING_BASE_SKIP_DRAIN",
)  # fmt: skip
_GATE_CASES = {name: f"VU-F-{230 + number:04}" for number, name in enumerate(_GATED)}
_SIZE_CASES = {number: f"VU-F-{109 + number:04}" for number in FRONTEND_MESSAGES}
_RING_FDS = {_F.SET_VRING_KICK: 0, _F.SET_VRING_CALL: 1, _F.SET_VRING_ERR: 2}
_BEFORE_KICK = {_F.SET_VRING_NUM: "VU-F-0401", _F.SET_VRING_ADDR: "VU-F-0403"}

RULES: dict[str, str] = {
    "VU-F-0102": "No request has the reply bit set",
    "VU-F-0103": "No request has an undefined flag set (bits 4 to 31)",
    "VU-F-0104": "Each request has a defined id",
    "VU-F-0105": "A message has the number of descriptors of its type",
    "VU-F-0106": "No message has more than 8 descriptors",
    **{
        case: f"The payload of {FRONTEND_MESSAGES[number].name} has the specified size"
        for number, case in _SIZE_CASES.items()
    },
    "VU-F-0207": "GET_FEATURES comes before SET_FEATURES",
    "VU-F-0208": "GET_PROTOCOL_FEATURES comes before SET_PROTOCOL_FEATURES",
    "VU-F-0213": "SET_FEATURES acknowledges nothing that was not offered",
    "VU-F-0214": "SET_PROTOCOL_FEATURES acknowledges nothing that was not offered",
    "VU-F-0220": "Without bit 30 there are no messages about protocol features",
    "VU-F-0221": "Without bit 30 there is no SET_VRING_ENABLE",
    **{
        case: f"Messages of {name} are sent only after it was acknowledged"
        for name, case in _GATE_CASES.items()
    },
    "VU-F-0270": "INBAND_NOTIFICATIONS is acknowledged only with BACKEND_REQ and REPLY_ACK",
    "VU-F-0271": "GET_VRING_BASE_INFLIGHT is acknowledged only with INFLIGHT_SHMFD",
    **{
        case: f"{_F(number).name} comes before the ring's SET_VRING_KICK"
        for number, case in _BEFORE_KICK.items()
    },
    # At the destination of a migration the base may come late: no ring is served until it is
    # enabled.
    "VU-F-0402": "SET_VRING_BASE comes before an enabled ring has its SET_VRING_KICK",
    "VU-F-0404": "A ring's size is a power of 2 and at most 32768",
    "VU-F-0408": "SET_VRING_ADDR has no flag except bit 0 (F_LOG)",
    "VU-F-0409": "SET_VRING_ENABLE has 0 or 1",
    "VU-F-0413": "GET_VRING_BASE is sent only for rings that were started",
    **{
        f"VU-F-{504 + place:04}": (
            f"Bit 8 of {_F(number).name} is set if and only if there is no descriptor"
        )
        for number, place in _RING_FDS.items()
    },
    **{
        f"VU-F-{507 + place:04}": f"Bits 9 to 63 of {_F(number).name} are 0"
        for number, place in _RING_FDS.items()
    },
    "VU-B-0101": "A reply has the request's id, version 1, the reply flag, and no other flag",
    "VU-B-0103": "A request that has no reply is not answered unless need_reply is set",
    "VU-B-0107": "Replies come in the order of the requests",
    "VU-B-0201": "GET_FEATURES gives the same answer each time",
    "VU-B-0203": "GET_PROTOCOL_FEATURES gives the same answer each time",
    "header-06": "A reply has the id of its request, and the size of its type",
}


class Judge:
    """Judges the messages of one connection, each before it takes effect on the session."""

    def __init__(self, session: ObservedSession) -> None:
        self._session = session
        self._answers: dict[int, object] = {}
        self._set_up: dict[int, set[int]] = {}

    def request(self, message: Message) -> None:
        """Note the rules that a message breaks, in `Message.violations`."""
        if message.on_channel or message.sender is not Sender.FRONT_END:
            return
        message.violations += [_text(case, message) for case in self._broken_by_request(message)]
        if message.ring is not None and not message.error:
            self._set_up.setdefault(message.ring & VRING_INDEX_MASK, set()).add(message.id)

    def reply(self, message: Message, due: Message | None) -> None:
        """The same of a reply that is paired; ``due`` is the request that was to be answered."""
        if message.on_channel or message.sender is not Sender.BACK_END:
            return
        message.violations += [_text(case, message) for case in self._broken_by_reply(message, due)]

    def _broken_by_request(self, message: Message) -> Iterator[str]:
        if message.flags & REPLY:
            yield "VU-F-0102"
        if message.flags & ~(VERSION | REPLY | NEED_REPLY):
            yield "VU-F-0103"
        if message.fds > _MAX_FDS:
            yield "VU-F-0106"
        row = self._session.row(message)
        if row is None:
            yield "VU-F-0104"
            return
        if message.error:
            yield _SIZE_CASES[message.id]
            return
        least, most = fd_range(row.fds, message.payload)
        if message.id not in _RING_FDS and not least <= message.fds <= most:
            yield "VU-F-0105"
        yield from self._broken_gate(message)
        yield from self._broken_negotiation(message)
        yield from self._broken_ring(message)

    def _broken_gate(self, message: Message) -> Iterator[str]:
        row = self._session.row(message)
        if row is None or not self._session.why_gated(message):
            return
        if row.gate.protocol in _GATE_CASES:
            yield _GATE_CASES[row.gate.protocol]
        elif row.gate.feature == VHOST_USER_F_PROTOCOL_FEATURES:
            yield "VU-F-0221" if message.id == _F.SET_VRING_ENABLE else "VU-F-0220"

    def _broken_negotiation(self, message: Message) -> Iterator[str]:
        session, payload = self._session, message.payload
        if not isinstance(payload, U64):
            return
        if message.id == _F.SET_FEATURES:
            if session.offered_features is None:
                yield "VU-F-0207"
            elif payload.value & ~session.offered_features:
                yield "VU-F-0213"
        elif message.id == _F.SET_PROTOCOL_FEATURES:
            if _F.GET_PROTOCOL_FEATURES not in self._answers:
                yield "VU-F-0208"
            elif payload.value & ~int(session.offered_protocol_features):
                yield "VU-F-0214"
            lacking = missing_dependencies(ProtocolFeature(payload.value))
            if _P.INBAND_NOTIFICATIONS in lacking:
                yield "VU-F-0270"
            if _P.GET_VRING_BASE_INFLIGHT in lacking:
                yield "VU-F-0271"

    def _broken_ring(self, message: Message) -> Iterator[str]:
        payload, number = message.payload, message.id
        if number in _RING_FDS and isinstance(payload, U64):
            place = _RING_FDS[_F(number)]
            if bool(payload.value & VRING_NO_FD) == bool(message.fds) or message.fds > 1:
                yield f"VU-F-{504 + place:04}"
            if payload.value & ~(VRING_NO_FD | VRING_INDEX_MASK):
                yield f"VU-F-{507 + place:04}"
            if number == _F.SET_VRING_KICK:
                known = self._known(payload.value)
                yield from (case for each, case in _BEFORE_KICK.items() if each not in known)
                if _F.SET_VRING_BASE not in known and self._enabled(known):
                    yield "VU-F-0402"
        elif isinstance(payload, VringAddr):
            if payload.flags & ~VRING_F_LOG:
                yield "VU-F-0408"
        elif isinstance(payload, State):
            yield from self._broken_state(number, payload)

    def _known(self, ring: int) -> set[int]:
        """The messages that have set up a ring."""
        return self._set_up.get(ring & VRING_INDEX_MASK, set())

    def _enabled(self, known: set[int]) -> bool:
        """Whether that ring may be enabled; without bit 30 all rings are."""
        bit = 1 << VHOST_USER_F_PROTOCOL_FEATURES
        return _F.SET_VRING_ENABLE in known or not (self._session.features or 0) & bit

    def _broken_state(self, number: int, state: State) -> Iterator[str]:
        if number == _F.SET_VRING_NUM:
            if not 0 < state.num <= _MAX_RING_SIZE or state.num & (state.num - 1):
                yield "VU-F-0404"
        elif number == _F.SET_VRING_ENABLE:
            known = self._known(state.ring)
            if state.num > 1:
                yield "VU-F-0409"
            elif state.num and _F.SET_VRING_KICK in known and _F.SET_VRING_BASE not in known:
                yield "VU-F-0402"
        elif number == _F.GET_VRING_BASE and not self._session.started(state.ring):
            yield "VU-F-0413"

    def _broken_by_reply(self, message: Message, due: Message | None) -> Iterator[str]:
        if message.flags not in REPLY_FLAGS:
            yield "VU-B-0101"
        if message.request is None:
            yield "VU-B-0103" if due is None else "VU-B-0101"
            return
        if due is not None:
            yield "VU-B-0107"
        allowed = self._session.allowed(message.id)
        if message.error or (
            allowed is not None and message.payload.__class__ not in allowed.answer_types
        ):
            yield "header-06"
        repeated = {_F.GET_FEATURES: "VU-B-0201", _F.GET_PROTOCOL_FEATURES: "VU-B-0203"}
        case = repeated.get(_F(message.id)) if message.id in FRONTEND_MESSAGES else None
        if case is None or message.error:
            return
        if self._answers.setdefault(message.id, message.payload) != message.payload:
            yield case


def _text(case: str, message: Message) -> str:
    what = message.name + ("" if message.ring is None else f", ring {message.ring}")
    return f"{case}: {RULES[case]} ({what})"
