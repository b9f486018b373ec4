"""The message table: all ids of both directions, and what each of them is.

This is the one place that knows a message. The codec takes its payloads and descriptors from
here, the sessions their gates and replies, and ``docs/messages.md`` is written from it.

Sources are sections of the vhost-user specification (QEMU ``docs/interop/vhost-user.rst``) or
commit ids of QEMU. Where the specification is silent and what peers do was followed, the note
says who does it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from vhost_user.features import (
    F_IOMMU_PLATFORM,
    F_RING_EVENT_IDX,
    F_RING_INDIRECT_DESC,
    F_RING_PACKED,
    F_VERSION_1,
    SPEC,
    VHOST_F_LOG_ALL,
    VHOST_USER_F_PROTOCOL_FEATURES,
    YC_LIBVHOST,
    Dialect,
    ProtocolFeature,
)
from vhost_user.message_ids import BackendRequest, FrontendRequest
from vhost_user.payloads import (
    U64,
    AnyPayload,
    Config,
    CryptoSession,
    DeviceState,
    Inflight,
    Iotlb,
    LogArea,
    MemTable,
    Mmap,
    SharedUuid,
    ShmemConfig,
    SingleRegion,
    VringAddr,
    VringArea,
    VringState,
)

__all__ = [
    "BACKEND_MESSAGES",
    "FRONTEND_MESSAGES",
    "F_IOMMU_PLATFORM",
    "F_RING_EVENT_IDX",
    "F_RING_INDIRECT_DESC",
    "F_RING_PACKED",
    "F_VERSION_1",
    "MAX_FDS",
    "VHOST_F_LOG_ALL",
    "VHOST_USER_F_PROTOCOL_FEATURES",
    "BackendRequest",
    "FdRule",
    "FrontendRequest",
    "Gate",
    "MessageSpec",
    "ProtocolFeature",
    "Reply",
    "ReplyRule",
    "Request",
    "frontend_messages",
    "wire_name",
]

#: Descriptors in one message: 8 by the specification, 16 as QEMU's socket layer has it.
MAX_FDS = 16


class FdRule(Enum):
    """How many descriptors go with a message."""

    NONE = "0"
    ONE = "1"
    OPTIONAL = "0 or 1"
    PER_REGION = "1 per region"
    UNLESS_NO_FD = "1, or 0 with bit 8 set"


class ReplyRule(Enum):
    """When a message is answered.

    Whatever the rule, with REPLY_ACK a sender may ask for an acknowledgement of a message that
    has no reply of its own; a message that has one gets that one and no other.
    """

    ACK = "only if need_reply"
    ALWAYS = "always"
    IF_LOG_SHMFD = "with LOG_SHMFD"
    IF_POSTCOPY = "between POSTCOPY_LISTEN and POSTCOPY_END, unless the payload is a U64"


class Gate(NamedTuple):
    """What must have been agreed on before a message may be sent.

    Attributes:
        protocol: name of a protocol feature, or "".
        feature: number of a feature bit, or None.
        offered: that the back-end offers the feature bit is enough.
    """

    protocol: str = ""
    feature: int | None = None
    offered: bool = False

    def __str__(self) -> str:
        if self.protocol:
            return self.protocol
        if self.feature is None:
            return "none"
        return f"feature bit {self.feature} {'offered' if self.offered else 'negotiated'}"


class MessageSpec(NamedTuple):
    """A row of the table.

    Attributes:
        id: the number on the wire.
        payload: the forms that the payload may have; none at all for an empty one.
        fds: how many descriptors go with it.
        reply: when it is answered.
        reply_payload: the forms that its own reply may have; None is an empty one.
        reply_fds: how many descriptors go with the reply.
        gate: what must have been agreed on.
        source: a commit, or who deviates; "" when the specification's text says it all.
        refusal: why sessions do not carry this message as yet, or "" if they do.
        alias: its name in a dialect that has another for this id, or "".
    """

    id: FrontendRequest | BackendRequest
    payload: tuple[type[AnyPayload], ...] = ()
    fds: FdRule = FdRule.NONE
    reply: ReplyRule = ReplyRule.ACK
    reply_payload: tuple[type[AnyPayload] | None, ...] = ()
    reply_fds: FdRule = FdRule.NONE
    gate: Gate = Gate()
    source: str = ""
    refusal: str = ""
    alias: str = ""

    @property
    def name(self) -> str:
        """The name in the specification, without its ``VHOST_USER_`` prefix."""
        return self.alias or self.id.name

    @property
    def implemented(self) -> bool:
        """Whether sessions carry this message."""
        return not self.refusal


class Request(NamedTuple):
    """A request, to be sent or as received.

    Attributes:
        id: which.
        payload: its payload, or None.
        fds: descriptors; the sender keeps its own, the receiver owns the ones it was given.
        need_reply: an acknowledgement is wanted. In a received request: an answer is due.
    """

    id: FrontendRequest
    payload: AnyPayload | None = None
    fds: tuple[int, ...] = ()
    need_reply: bool = False


class Reply(NamedTuple):
    """An answer: the id of its request, its payload, its descriptors (the receiver's to close)."""

    id: FrontendRequest
    payload: AnyPayload | None
    fds: tuple[int, ...] = ()


_PROTOCOL = Gate(feature=VHOST_USER_F_PROTOCOL_FEATURES, offered=True)
_ENABLE = Gate(feature=VHOST_USER_F_PROTOCOL_FEATURES)
_IOMMU = Gate(feature=F_IOMMU_PLATFORM)
_SLOTS = Gate("CONFIGURE_MEM_SLOTS")
_SHMEM = Gate("SHMEM")
_SHARED = Gate("SHARED_OBJECT")

_NO_IOMMU = "no IOTLB is kept as yet"
_NO_CRYPTO = "its payload holds pointers of the sender's process, and no specification draws it"
_NO_USE = "no back-end here has a use for it as yet"

_GO_AHEAD = (
    "in postcopy the reply has the back-end's addresses; then a U64 of 0, which has no reply, is "
    "the go-ahead"
)

_ALWAYS = ReplyRule.ALWAYS
_A_U64 = (U64,)
_F = FrontendRequest
_B = BackendRequest


_FRONTEND_ROWS = (
    MessageSpec(_F.GET_FEATURES, reply_payload=_A_U64, reply=_ALWAYS),
    MessageSpec(_F.SET_FEATURES, payload=(U64,)),
    MessageSpec(_F.SET_OWNER),
    MessageSpec(_F.RESET_OWNER, source="deprecated: all rings are disabled"),
    MessageSpec(
        _F.SET_MEM_TABLE,
        payload=(MemTable, U64),
        fds=FdRule.PER_REGION,
        reply=ReplyRule.IF_POSTCOPY,
        reply_payload=(MemTable, U64),
        source=_GO_AHEAD,
    ),
    MessageSpec(
        _F.SET_LOG_BASE,
        payload=(LogArea, U64),
        fds=FdRule.OPTIONAL,
        reply=ReplyRule.IF_LOG_SHMFD,
        reply_payload=(None, U64, LogArea),
        source="reply not drawn: QEMU's tests send none of it, libvhost-user 8 bytes, rust-vmm 16",
    ),
    MessageSpec(_F.SET_LOG_FD, fds=FdRule.ONE),
    MessageSpec(_F.SET_VRING_NUM, payload=(VringState,)),
    MessageSpec(_F.SET_VRING_ADDR, payload=(VringAddr,)),
    MessageSpec(_F.SET_VRING_BASE, payload=(VringState,)),
    MessageSpec(
        _F.GET_VRING_BASE,
        payload=(VringState,),
        reply=_ALWAYS,
        reply_payload=(VringState,),
        source="c7f2181661: num is 0; e7985b6a56: requests in flight are completed first",
    ),
    MessageSpec(_F.SET_VRING_KICK, payload=(U64,), fds=FdRule.UNLESS_NO_FD),
    MessageSpec(_F.SET_VRING_CALL, payload=(U64,), fds=FdRule.UNLESS_NO_FD),
    MessageSpec(_F.SET_VRING_ERR, payload=(U64,), fds=FdRule.UNLESS_NO_FD),
    MessageSpec(_F.GET_PROTOCOL_FEATURES, gate=_PROTOCOL, reply_payload=_A_U64, reply=_ALWAYS),
    MessageSpec(_F.SET_PROTOCOL_FEATURES, payload=(U64,), gate=_PROTOCOL),
    MessageSpec(_F.GET_QUEUE_NUM, gate=Gate("MQ"), reply_payload=_A_U64, reply=_ALWAYS),
    MessageSpec(
        _F.SET_VRING_ENABLE,
        payload=(VringState,),
        gate=_ENABLE,
        source="QEMU's virtio-net sends it before SET_FEATURES: back-ends accept it then",
    ),
    MessageSpec(_F.SEND_RARP, payload=(U64,), gate=Gate("RARP")),
    MessageSpec(_F.NET_SET_MTU, payload=(U64,), gate=Gate("NET_MTU")),
    MessageSpec(_F.SET_BACKEND_REQ_FD, fds=FdRule.ONE, gate=Gate("BACKEND_REQ")),
    MessageSpec(
        _F.IOTLB_MSG,
        gate=_IOMMU,
        payload=(Iotlb,),
        refusal=_NO_IOMMU,
        reply_payload=_A_U64,
        reply=_ALWAYS,
    ),
    MessageSpec(_F.SET_VRING_ENDIAN, payload=(VringState,), gate=Gate("CROSS_ENDIAN")),
    MessageSpec(
        _F.GET_CONFIG,
        gate=Gate("CONFIG"),
        payload=(Config,),
        reply_payload=(Config, None),
        source="an empty reply is an error",
        reply=_ALWAYS,
    ),
    MessageSpec(_F.SET_CONFIG, payload=(Config,), gate=Gate("CONFIG")),
    MessageSpec(
        _F.CREATE_CRYPTO_SESSION,
        gate=Gate("CRYPTO_SESSION"),
        payload=(CryptoSession,),
        reply_payload=(CryptoSession,),
        refusal=_NO_CRYPTO,
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.CLOSE_CRYPTO_SESSION, payload=(U64,), gate=Gate("CRYPTO_SESSION"), refusal=_NO_CRYPTO
    ),
    MessageSpec(
        _F.POSTCOPY_ADVISE,
        gate=Gate("PAGEFAULT"),
        reply_payload=(None,),
        reply_fds=FdRule.ONE,
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.POSTCOPY_LISTEN,
        gate=Gate("PAGEFAULT"),
        source="the text has no reply, QEMU waits for one",
        reply_payload=_A_U64,
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.POSTCOPY_END,
        gate=Gate("PAGEFAULT"),
        reply_payload=_A_U64,
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.GET_INFLIGHT_FD,
        gate=Gate("INFLIGHT_SHMFD"),
        payload=(Inflight,),
        reply_payload=(Inflight,),
        reply_fds=FdRule.OPTIONAL,
        source="an mmap size of 0 comes without a descriptor",
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.SET_INFLIGHT_FD, payload=(Inflight,), fds=FdRule.ONE, gate=Gate("INFLIGHT_SHMFD")
    ),
    MessageSpec(_F.GPU_SET_SOCKET, fds=FdRule.ONE, refusal="no GPU device is served"),
    MessageSpec(_F.RESET_DEVICE, gate=Gate("RESET_DEVICE")),
    MessageSpec(_F.VRING_KICK, payload=(VringState,), gate=Gate("INBAND_NOTIFICATIONS")),
    MessageSpec(_F.GET_MAX_MEM_SLOTS, gate=_SLOTS, reply_payload=_A_U64, reply=_ALWAYS),
    MessageSpec(
        _F.ADD_MEM_REG,
        payload=(SingleRegion, U64),
        fds=FdRule.PER_REGION,
        reply=ReplyRule.IF_POSTCOPY,
        reply_payload=(SingleRegion, U64),
        gate=_SLOTS,
        source=_GO_AHEAD,
    ),
    MessageSpec(
        _F.REM_MEM_REG,
        payload=(SingleRegion,),
        fds=FdRule.OPTIONAL,
        gate=_SLOTS,
        source="older front-ends send a descriptor, which the back-end closes",
    ),
    MessageSpec(_F.SET_STATUS, payload=(U64,), gate=Gate("STATUS")),
    MessageSpec(_F.GET_STATUS, gate=Gate("STATUS"), reply_payload=_A_U64, reply=_ALWAYS),
    MessageSpec(
        _F.GET_SHARED_OBJECT,
        gate=_SHARED,
        payload=(SharedUuid,),
        reply_payload=(None, U64, SharedUuid),
        reply_fds=FdRule.OPTIONAL,
        source="size of the reply not drawn",
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.SET_DEVICE_STATE_FD,
        gate=Gate("DEVICE_STATE"),
        payload=(DeviceState,),
        fds=FdRule.ONE,
        reply_fds=FdRule.UNLESS_NO_FD,
        source="019233096c; bit 8 of the reply set: no descriptor, bits 0-7: error",
        reply_payload=_A_U64,
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.CHECK_DEVICE_STATE,
        gate=Gate("DEVICE_STATE"),
        source="cda83adc62",
        reply_payload=_A_U64,
        reply=_ALWAYS,
    ),
    MessageSpec(
        _F.GET_SHMEM_CONFIG,
        gate=_SHMEM,
        reply_payload=(ShmemConfig,),
        source="3d6e537a81 (pending), rust-vmm vhost 0.16",
        reply=_ALWAYS,
    ),
)

_BACKEND_ROWS = (
    MessageSpec(_B.IOTLB_MSG, payload=(Iotlb,), gate=_IOMMU),
    MessageSpec(_B.CONFIG_CHANGE_MSG, gate=Gate("CONFIG")),
    MessageSpec(
        _B.VRING_HOST_NOTIFIER_MSG,
        payload=(VringArea,),
        fds=FdRule.UNLESS_NO_FD,
        gate=Gate("HOST_NOTIFIER"),
    ),
    MessageSpec(_B.VRING_CALL, payload=(VringState,), gate=Gate("INBAND_NOTIFICATIONS")),
    MessageSpec(_B.VRING_ERR, payload=(VringState,), gate=Gate("INBAND_NOTIFICATIONS")),
    MessageSpec(_B.SHARED_OBJECT_ADD, payload=(SharedUuid,), gate=_SHARED, source="eea5aeef84"),
    MessageSpec(_B.SHARED_OBJECT_REMOVE, payload=(SharedUuid,), gate=_SHARED),
    MessageSpec(
        _B.SHARED_OBJECT_LOOKUP,
        payload=(SharedUuid,),
        reply=_ALWAYS,
        reply_payload=(U64,),
        reply_fds=FdRule.OPTIONAL,
        gate=_SHARED,
    ),
    MessageSpec(
        _B.SHMEM_MAP, payload=(Mmap,), fds=FdRule.ONE, gate=_SHMEM, source="ca77f68785 (pending)"
    ),
    MessageSpec(_B.SHMEM_UNMAP, payload=(Mmap,), gate=_SHMEM, source="ca77f68785 (pending)"),
)

#: All front-end messages by id, as the specification numbers them.
FRONTEND_MESSAGES: dict[int, MessageSpec] = {row.id: row for row in _FRONTEND_ROWS}
#: All back-end messages by id.
BACKEND_MESSAGES: dict[int, MessageSpec] = {
    row.id: row if row.id == _B.CONFIG_CHANGE_MSG else row._replace(refusal=_NO_USE)
    for row in _BACKEND_ROWS
}

#: What an id is to those who number it otherwise: (dialect, id) to its row.
DIALECT_ROWS: dict[tuple[str, int], MessageSpec] = {
    (YC_LIBVHOST.name, 44): FRONTEND_MESSAGES[_F.GET_VRING_BASE]._replace(
        id=_F.GET_SHMEM_CONFIG,
        alias="GET_VRING_BASE_SKIP_DRAIN",
        gate=Gate("GET_VRING_BASE_SKIP_DRAIN"),
        source=YC_LIBVHOST.source,
        refusal="which protocol feature announces it is not settled",
    ),
}


def frontend_messages(dialect: Dialect = SPEC) -> dict[int, MessageSpec]:
    """The front-end table as a dialect numbers it."""
    return {
        number: DIALECT_ROWS.get((dialect.name, number), row)
        for number, row in FRONTEND_MESSAGES.items()
    }


def wire_name(number: int, dialect: Dialect = SPEC) -> str:
    """The name of a front-end id for people; unknown ones are told by number."""
    row = frontend_messages(dialect).get(number)
    return row.name if row else f"message {number}"
