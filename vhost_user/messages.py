"""The message table: every message of both directions, one row each.

A row is everything that the library knows of a message: the codec takes payloads and descriptors
from it, the sessions take gates, replies and effects, and ``docs/reference/messages.md`` is made
from it. To add a message, add its row here and its payload's class, if that is a new one, to
`vhost_user.payloads`.

Sources are sections of the vhost-user specification (QEMU ``docs/interop/vhost-user.rst``) or
commit ids of QEMU. Where the specification is silent the table follows its peers, and the note
names them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, Self

from vhost_user.features import (
    LAST_COMMON_MESSAGE,
    SPEC,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_IOMMU_PLATFORM,
    YC_LIBVHOST,
    Dialect,
)
from vhost_user.message_spec import Effect, FdRule, Gate, MessageSpec, ReplyRule
from vhost_user.payloads import (
    U64,
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user.payload_layout import Payload

#: Descriptors in one message: 8 in the specification, 16 in QEMU's socket layer.
MAX_FDS = 16

_UNGATED = Gate()
_PROTOCOL = Gate(feature=VHOST_USER_F_PROTOCOL_FEATURES, offered=True)
_ENABLE = Gate(feature=VHOST_USER_F_PROTOCOL_FEATURES)
_IOMMU = Gate(feature=VIRTIO_F_IOMMU_PLATFORM)
_SLOTS = Gate("CONFIGURE_MEM_SLOTS")
_SHMEM = Gate("SHMEM")
_SHARED = Gate("SHARED_OBJECT")

_NO_IOMMU = "there is no IOTLB yet"
_NO_CRYPTO = "its payload has pointers into the sender's process, and its layout is not specified"
_NO_SENDER = "no back-end of this project sends it yet"

_GO_AHEAD = (
    "in postcopy the reply has the back-end's addresses; then a U64 of 0, which has no reply, is "
    "the go-ahead"
)


def _row(
    number: int,
    *payload: type[Payload],
    gate: Gate = _UNGATED,
    fds: FdRule = FdRule.NONE,
    reply: ReplyRule | None = None,
    reply_payload: tuple[type[Payload] | None, ...] = (),
    reply_fds: FdRule = FdRule.NONE,
    effect: Effect | None = None,
    reply_effect: Effect | None = None,
    source: str = "",
    unsupported: str = "",
) -> tuple[int, MessageSpec]:
    """A row, see `MessageSpec`; by default one with a ``reply_payload`` is always answered."""
    return number, MessageSpec(
        payload=payload,
        fds=fds,
        reply=reply or (ReplyRule.ALWAYS if reply_payload else ReplyRule.ACK),
        reply_payload=reply_payload,
        reply_fds=reply_fds,
        gate=gate,
        effect=effect,
        reply_effect=reply_effect,
        source=source,
        unsupported=unsupported,
    )


_EMPTY = MessageSpec()


class _Message(IntEnum):
    """A member is a message: its number, and its row of the table as ``spec``."""

    spec: MessageSpec

    def __new__(cls, number: int, *_: object) -> Self:
        member = int.__new__(cls, number)
        member._value_ = number
        return member

    def __init__(self, _number: int, spec: MessageSpec = _EMPTY) -> None:
        self.spec = spec._replace(id=self, name=self._name_)


class FrontendRequest(_Message):
    """The messages that a front-end sends (spec, "Front-end message types")."""

    GET_FEATURES = _row(1, reply_payload=(U64,), reply_effect=Effect.OFFER_FEATURES)
    SET_FEATURES = _row(2, U64, effect=Effect.ACK_FEATURES)
    SET_OWNER = _row(3)
    RESET_OWNER = _row(4, effect=Effect.RESET_OWNER, source="deprecated: all rings are disabled")
    SET_MEM_TABLE = _row(
        5,
        MemTable,
        U64,
        fds=FdRule.PER_REGION,
        reply=ReplyRule.IF_POSTCOPY,
        reply_payload=(MemTable, U64),
        source=_GO_AHEAD,
    )
    SET_LOG_BASE = _row(
        6,
        LogArea,
        U64,
        fds=FdRule.OPTIONAL,
        reply=ReplyRule.IF_LOG_SHMFD,
        reply_payload=(None, U64, LogArea),
        source=(
            "the reply's size is not specified: QEMU's tests send 0 bytes, libvhost-user 8, "
            "rust-vmm 16"
        ),
    )
    SET_LOG_FD = _row(7, fds=FdRule.ONE)
    SET_VRING_NUM = _row(8, VringState)
    SET_VRING_ADDR = _row(9, VringAddr)
    SET_VRING_BASE = _row(10, VringState)
    GET_VRING_BASE = _row(
        11,
        VringState,
        reply_payload=(VringState,),
        reply_effect=Effect.STOP_RING,
        source="c7f2181661: num is 0; e7985b6a56: requests in flight are completed first",
    )
    SET_VRING_KICK = _row(12, U64, fds=FdRule.UNLESS_NO_FD)
    SET_VRING_CALL = _row(13, U64, fds=FdRule.UNLESS_NO_FD)
    SET_VRING_ERR = _row(14, U64, fds=FdRule.UNLESS_NO_FD)
    GET_PROTOCOL_FEATURES = _row(
        15, gate=_PROTOCOL, reply_payload=(U64,), reply_effect=Effect.OFFER_PROTOCOL_FEATURES
    )
    SET_PROTOCOL_FEATURES = _row(16, U64, gate=_PROTOCOL, effect=Effect.ACK_PROTOCOL_FEATURES)
    GET_QUEUE_NUM = _row(17, gate=Gate("MQ"), reply_payload=(U64,))
    SET_VRING_ENABLE = _row(
        18,
        VringState,
        gate=_ENABLE,
        effect=Effect.ENABLE_RING,
        source="QEMU's virtio-net sends it before SET_FEATURES: back-ends accept it then",
    )
    SEND_RARP = _row(19, U64, gate=Gate("RARP"))
    NET_SET_MTU = _row(20, U64, gate=Gate("NET_MTU"))
    SET_BACKEND_REQ_FD = _row(21, gate=Gate("BACKEND_REQ"), fds=FdRule.ONE)
    IOTLB_MSG = _row(22, Iotlb, gate=_IOMMU, reply_payload=(U64,), unsupported=_NO_IOMMU)
    SET_VRING_ENDIAN = _row(23, VringState, gate=Gate("CROSS_ENDIAN"))
    GET_CONFIG = _row(
        24,
        Config,
        gate=Gate("CONFIG"),
        reply_payload=(Config, None),
        source="an empty reply is an error",
    )
    SET_CONFIG = _row(25, Config, gate=Gate("CONFIG"))
    CREATE_CRYPTO_SESSION = _row(
        26,
        CryptoSession,
        gate=Gate("CRYPTO_SESSION"),
        reply_payload=(CryptoSession,),
        unsupported=_NO_CRYPTO,
    )
    CLOSE_CRYPTO_SESSION = _row(27, U64, gate=Gate("CRYPTO_SESSION"), unsupported=_NO_CRYPTO)
    POSTCOPY_ADVISE = _row(28, gate=Gate("PAGEFAULT"), reply_payload=(None,), reply_fds=FdRule.ONE)
    POSTCOPY_LISTEN = _row(
        29,
        gate=Gate("PAGEFAULT"),
        reply_payload=(U64,),
        effect=Effect.BEGIN_POSTCOPY,
        source="no reply in the specification's text; QEMU waits for one",
    )
    POSTCOPY_END = _row(
        30, gate=Gate("PAGEFAULT"), reply_payload=(U64,), effect=Effect.END_POSTCOPY
    )
    GET_INFLIGHT_FD = _row(
        31,
        Inflight,
        gate=Gate("INFLIGHT_SHMFD"),
        reply_payload=(Inflight,),
        reply_fds=FdRule.OPTIONAL,
        source="no descriptor where the mmap size is 0",
    )
    SET_INFLIGHT_FD = _row(32, Inflight, gate=Gate("INFLIGHT_SHMFD"), fds=FdRule.ONE)
    GPU_SET_SOCKET = _row(33, fds=FdRule.ONE, unsupported="there is no GPU device")
    RESET_DEVICE = _row(34, gate=Gate("RESET_DEVICE"), effect=Effect.RESET_DEVICE)
    VRING_KICK = _row(35, VringState, gate=Gate("INBAND_NOTIFICATIONS"), effect=Effect.KICK_RING)
    GET_MAX_MEM_SLOTS = _row(36, gate=_SLOTS, reply_payload=(U64,))
    ADD_MEM_REG = _row(
        37,
        SingleRegion,
        U64,
        gate=_SLOTS,
        fds=FdRule.PER_REGION,
        reply=ReplyRule.IF_POSTCOPY,
        reply_payload=(SingleRegion, U64),
        source=_GO_AHEAD,
    )
    REM_MEM_REG = _row(
        38,
        SingleRegion,
        gate=_SLOTS,
        fds=FdRule.OPTIONAL,
        source="older front-ends send a descriptor, which the back-end closes",
    )
    SET_STATUS = _row(39, U64, gate=Gate("STATUS"), effect=Effect.RESET_BY_STATUS)
    GET_STATUS = _row(40, gate=Gate("STATUS"), reply_payload=(U64,))
    GET_SHARED_OBJECT = _row(
        41,
        SharedUuid,
        gate=_SHARED,
        reply_payload=(None, U64, SharedUuid),
        reply_fds=FdRule.OPTIONAL,
        source="the reply's size is not specified",
    )
    SET_DEVICE_STATE_FD = _row(
        42,
        DeviceState,
        gate=Gate("DEVICE_STATE"),
        fds=FdRule.ONE,
        reply_payload=(U64,),
        reply_fds=FdRule.UNLESS_NO_FD,
        source="019233096c; in the reply bit 8 is set without a descriptor, bits 0-7 are an error",
    )
    CHECK_DEVICE_STATE = _row(
        43, gate=Gate("DEVICE_STATE"), reply_payload=(U64,), source="cda83adc62"
    )
    GET_SHMEM_CONFIG = _row(
        44,
        gate=_SHMEM,
        reply_payload=(ShmemConfig,),
        source="3d6e537a81",
    )
    GET_VRING_BASE_SKIP_DRAIN = _row(
        45,
        VringState,
        gate=Gate("GET_VRING_BASE_SKIP_DRAIN"),
        reply_payload=(VringState,),
        reply_effect=Effect.STOP_RING,
        source=(
            "1276e6c85d: as GET_VRING_BASE, but requests in flight are suspended, and recorded in "
            "the inflight region"
        ),
    )


class BackendRequest(_Message):
    """The messages that a back-end sends, on a socket of its own ("Back-end message types")."""

    IOTLB_MSG = _row(1, Iotlb, gate=_IOMMU, unsupported=_NO_SENDER)
    CONFIG_CHANGE_MSG = _row(2, gate=Gate("CONFIG"))
    VRING_HOST_NOTIFIER_MSG = _row(
        3, VringArea, gate=Gate("HOST_NOTIFIER"), fds=FdRule.UNLESS_NO_FD, unsupported=_NO_SENDER
    )
    VRING_CALL = _row(4, VringState, gate=Gate("INBAND_NOTIFICATIONS"), unsupported=_NO_SENDER)
    VRING_ERR = _row(5, VringState, gate=Gate("INBAND_NOTIFICATIONS"), unsupported=_NO_SENDER)
    SHARED_OBJECT_ADD = _row(
        6, SharedUuid, gate=_SHARED, source="eea5aeef84", unsupported=_NO_SENDER
    )
    SHARED_OBJECT_REMOVE = _row(7, SharedUuid, gate=_SHARED, unsupported=_NO_SENDER)
    SHARED_OBJECT_LOOKUP = _row(
        8,
        SharedUuid,
        gate=_SHARED,
        reply_payload=(U64,),
        reply_fds=FdRule.OPTIONAL,
        unsupported=_NO_SENDER,
    )
    SHMEM_MAP = _row(
        9, Mmap, gate=_SHMEM, fds=FdRule.ONE, source="ca77f68785", unsupported=_NO_SENDER
    )
    SHMEM_UNMAP = _row(10, Mmap, gate=_SHMEM, source="ca77f68785", unsupported=_NO_SENDER)


#: All front-end messages by id.
FRONTEND_MESSAGES: dict[int, MessageSpec] = {row: row.spec for row in FrontendRequest}
#: All back-end messages by id.
BACKEND_MESSAGES: dict[int, MessageSpec] = {row: row.spec for row in BackendRequest}

#: Ids with another meaning than in the specification: (dialect, id) to the row there.
DIALECT_ROWS: dict[tuple[str, int], MessageSpec] = {
    (YC_LIBVHOST.name, 44): FrontendRequest.GET_VRING_BASE.spec._replace(
        id=FrontendRequest.GET_SHMEM_CONFIG,
        name="GET_VRING_BASE_SKIP_DRAIN",
        gate=Gate("GET_VRING_BASE_SKIP_DRAIN"),
        source=YC_LIBVHOST.source,
        unsupported="its protocol feature has another number than in the specification",
    ),
}


def frontend_messages(dialect: Dialect = SPEC) -> dict[int, MessageSpec]:
    """The front-end table as a dialect numbers it."""
    return {
        number: DIALECT_ROWS.get((dialect.name, number), row)
        for number, row in FRONTEND_MESSAGES.items()
        if number <= LAST_COMMON_MESSAGE or number in dialect.messages
    }


def wire_name(number: int, dialect: Dialect = SPEC) -> str:
    """The name of a front-end id; ``message 99`` for an unknown one."""
    row = frontend_messages(dialect).get(number)
    return row.name if row else f"message {number}"


class Request(NamedTuple):
    """A request, to be sent or as received.

    Attributes:
        id: which message.
        payload: its payload, or None.
        fds: descriptors; the sender keeps its own, the receiver owns those that it received.
        need_reply: the sender wants an acknowledgement. In a received request: an answer is due.
    """

    id: FrontendRequest
    payload: Payload | None = None
    fds: tuple[int, ...] = ()
    need_reply: bool = False


class RequestRun(NamedTuple):
    """Requests in a row that differ in their payloads only, each of which names a ring.

    A front-end sends one to each ring of a device when it stops or starts. A back-end does much
    less for each of them if it handles all at once.

    Attributes:
        id, need_reply: of each `Request`.
        kind: class of the payloads.
        payloads: their fields, as plain tuples; the first one is the ring.
    """

    id: FrontendRequest
    need_reply: bool
    kind: type[Payload]
    payloads: list[tuple[int, ...]]

    def requests(self) -> list[Request]:
        """The requests, one by one."""
        number, due, kind, payloads = self
        make: Callable[..., Payload] = kind
        return [Request(number, make(*fields), (), due) for fields in payloads]


class Reply(NamedTuple):
    """An answer: the id of its request, its payload, its descriptors (the receiver's to close)."""

    id: FrontendRequest
    payload: Payload | None
    fds: tuple[int, ...] = ()
