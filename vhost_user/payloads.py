"""Payloads of vhost-user messages: one NamedTuple each, in host byte order.

Sizes are those that peers put on the wire. Where the specification's drawing leaves out a
structure's padding (IOTLB, inflight description), what everybody sends is followed.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol, Self

#: Regions that one SET_MEM_TABLE may carry (spec, "Memory region description").
MAX_REGIONS = 8
#: Bytes of a virtio device's configuration space that one message may carry.
MAX_CONFIG = 256
#: Shared memory regions of a device (a region's id has 8 bits).
MAX_SHMEM_REGIONS = 256

VRING_INDEX_MASK = 0xFF
VRING_NO_FD = 1 << 8
#: SET_VRING_KICK, CALL and ERR have eight bits for a ring (spec, "A vring index for a vring").
MAX_RINGS = VRING_INDEX_MASK + 1
#: `VringAddr.flags`: writes to the used ring are to be logged.
VRING_F_LOG = 1

_U64 = struct.Struct("=Q")
_VRING_STATE = struct.Struct("=II")
_VRING_ADDR = struct.Struct("=IIQQQQ")
_MEMORY_REGION = struct.Struct("=QQQQ")
_MEM_TABLE_HEAD = struct.Struct("=I4x")
_SINGLE_REGION = struct.Struct("=8xQQQQ")
_LOG_AREA = struct.Struct("=QQ")
_IOTLB = struct.Struct("=QQQBB6x")
_CONFIG_HEAD = struct.Struct("=III")
_VRING_AREA = struct.Struct("=QQQ")
_INFLIGHT = struct.Struct("=QQHH4x")
_SHARED_UUID_SIZE = 16
_DEVICE_STATE = struct.Struct("=II")
_CRYPTO_SESSION_SIZE = 1072
_MMAP = struct.Struct("=B7xQQQQ")
_SHMEM_CONFIG_HEAD = struct.Struct("=I4x")


class PayloadError(ValueError):
    """A payload has a size or a content that its message cannot have."""


class Payload(Protocol):
    """What every payload can do."""

    def pack(self) -> bytes:
        """The payload's bytes on the wire."""
        ...

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """The payload that these bytes are.

        Raises:
            PayloadError: the size or the contents cannot be.
        """
        ...


def _exact(what: str, layout: struct.Struct, data: bytes) -> tuple[int, ...]:
    if len(data) != layout.size:
        raise PayloadError(f"{what} has {layout.size} bytes, not {len(data)}")
    return layout.unpack(data)


class U64(NamedTuple):
    """A 64-bit value: features, an acknowledgement (0 is success), a vring index with flags."""

    value: int

    def pack(self) -> bytes:
        """8 bytes."""
        return _U64.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 8 bytes, else `PayloadError`."""
        return cls._make(_exact("a u64", _U64, data))


class VringState(NamedTuple):
    """A vring and a number: its size, base, enable bit or endianness."""

    index: int  # type: ignore[assignment]  # the protocol's name, though tuples have a method of it
    num: int

    def pack(self) -> bytes:
        """8 bytes."""
        return _VRING_STATE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 8 bytes, else `PayloadError`."""
        return cls._make(_exact("a vring state", _VRING_STATE, data))


class VringAddr(NamedTuple):
    """Where a vring's three parts lie.

    Attributes:
        index: the vring.
        flags: `VRING_F_LOG` or 0.
        desc: user address of the descriptor table (so are ``used`` and ``avail``).
        used: user address of the used ring.
        avail: user address of the available ring.
        log: guest physical address that stands for the used ring's first byte in the dirty log.
    """

    index: int  # type: ignore[assignment]  # as in VringState
    flags: int
    desc: int
    used: int
    avail: int
    log: int

    def pack(self) -> bytes:
        """40 bytes."""
        return _VRING_ADDR.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 40 bytes, else `PayloadError`."""
        return cls._make(_exact("a vring address", _VRING_ADDR, data))


class MemoryRegion(NamedTuple):
    """A region of guest memory: guest physical address, bytes, user address, offset in its fd."""

    gpa: int
    size: int
    user_addr: int
    mmap_offset: int

    def pack(self) -> bytes:
        """32 bytes."""
        return _MEMORY_REGION.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 32 bytes, else `PayloadError`."""
        return cls._make(_exact("a memory region", _MEMORY_REGION, data))


class MemTable(NamedTuple):
    """SET_MEM_TABLE: 1 to 8 regions, each with a descriptor, in the same order."""

    regions: tuple[MemoryRegion, ...]

    def pack(self) -> bytes:
        """8 + 32 n bytes: only as many regions as there are.

        Raises:
            PayloadError: there are none, or more than `MAX_REGIONS`.
        """
        if not 1 <= len(self.regions) <= MAX_REGIONS:
            raise PayloadError(f"a memory table has 1 to {MAX_REGIONS} regions")
        return _MEM_TABLE_HEAD.pack(len(self.regions)) + b"".join(r.pack() for r in self.regions)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From 8 + 32 n bytes for the n in the first four, else `PayloadError`."""
        if len(data) < _MEM_TABLE_HEAD.size:
            raise PayloadError(f"a memory table has more than {len(data)} bytes")
        count: int = _MEM_TABLE_HEAD.unpack_from(data)[0]
        if not 1 <= count <= MAX_REGIONS:
            raise PayloadError(f"a memory table has 1 to {MAX_REGIONS} regions, not {count}")
        if len(data) != _MEM_TABLE_HEAD.size + count * _MEMORY_REGION.size:
            raise PayloadError(f"{count} regions do not take {len(data)} bytes")
        regions = _MEMORY_REGION.iter_unpack(data[_MEM_TABLE_HEAD.size :])
        return cls(tuple(map(MemoryRegion._make, regions)))


class SingleRegion(NamedTuple):
    """ADD_MEM_REG and REM_MEM_REG: one region after 8 bytes of padding."""

    region: MemoryRegion

    def pack(self) -> bytes:
        """40 bytes."""
        return _SINGLE_REGION.pack(*self.region)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 40 bytes, else `PayloadError`."""
        return cls(MemoryRegion._make(_exact("a single region", _SINGLE_REGION, data)))


class LogArea(NamedTuple):
    """SET_LOG_BASE: bytes of the dirty log, and where it begins in its descriptor."""

    size: int
    offset: int

    def pack(self) -> bytes:
        """16 bytes."""
        return _LOG_AREA.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 16 bytes, else `PayloadError`."""
        return cls._make(_exact("a log area", _LOG_AREA, data))


class Iotlb(NamedTuple):
    """An IOTLB message: ``perm`` is 1 read, 2 write; ``type`` 1 miss .. 4 access failure."""

    iova: int
    size: int
    user_addr: int
    perm: int
    type: int

    def pack(self) -> bytes:
        """32 bytes, with the padding that the kernel's structure has."""
        return _IOTLB.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 32 bytes with a known permission and type, else `PayloadError`."""
        made = cls._make(_exact("an IOTLB message", _IOTLB, data))
        if made.perm > 3 or not 1 <= made.type <= 4:
            raise PayloadError(f"IOTLB permission {made.perm}, type {made.type}")
        return made


class Config(NamedTuple):
    """A part of the device's configuration space.

    Attributes:
        offset: first byte within the space.
        flags: 0 when the guest writes, 1 when a migration does.
        data: the bytes; in a GET_CONFIG request they are as many as are asked for.
    """

    offset: int
    flags: int
    data: bytes

    def pack(self) -> bytes:
        """12 bytes and the data.

        Raises:
            PayloadError: more than `MAX_CONFIG` bytes of data.
        """
        if len(self.data) > MAX_CONFIG:
            raise PayloadError(f"{len(self.data)} bytes of configuration, {MAX_CONFIG} at most")
        return _CONFIG_HEAD.pack(self.offset, len(self.data), self.flags) + self.data

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From 12 bytes and as many as they announce, else `PayloadError`."""
        if len(data) < _CONFIG_HEAD.size:
            raise PayloadError(f"a configuration message has more than {len(data)} bytes")
        offset, size, flags = _CONFIG_HEAD.unpack_from(data)
        body = data[_CONFIG_HEAD.size :]
        if size != len(body) or size > MAX_CONFIG:
            raise PayloadError(f"{size} bytes of configuration announced, {len(body)} sent")
        return cls(offset, flags, bytes(body))


class VringArea(NamedTuple):
    """A host notifier's area: vring index (bit 8: no descriptor), bytes, offset in the fd."""

    index_flags: int
    size: int
    offset: int

    def pack(self) -> bytes:
        """24 bytes."""
        return _VRING_AREA.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 24 bytes, else `PayloadError`."""
        return cls._make(_exact("a vring area", _VRING_AREA, data))


class Inflight(NamedTuple):
    """The inflight region: its bytes and offset in the fd, for how many rings of what size."""

    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int

    def pack(self) -> bytes:
        """24 bytes, with the padding of the C structure."""
        return _INFLIGHT.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 24 bytes, else `PayloadError`."""
        return cls._make(_exact("an inflight description", _INFLIGHT, data))


class SharedUuid(NamedTuple):
    """The UUID of a shared object: 16 bytes, as they are on the wire."""

    uuid: bytes

    def pack(self) -> bytes:
        """16 bytes, else `PayloadError`."""
        if len(self.uuid) != _SHARED_UUID_SIZE:
            raise PayloadError(f"a UUID has {_SHARED_UUID_SIZE} bytes, not {len(self.uuid)}")
        return self.uuid

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 16 bytes, else `PayloadError`."""
        if len(data) != _SHARED_UUID_SIZE:
            raise PayloadError(f"a UUID has {_SHARED_UUID_SIZE} bytes, not {len(data)}")
        return cls(bytes(data))


class DeviceState(NamedTuple):
    """A transfer of device state: direction (0 save, 1 load), phase (0: all rings stopped)."""

    direction: int
    phase: int

    def pack(self) -> bytes:
        """8 bytes."""
        return _DEVICE_STATE.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 8 bytes with a known direction and phase, else `PayloadError`."""
        made = cls._make(_exact("a device state", _DEVICE_STATE, data))
        if made.direction > 1 or made.phase != 0:
            raise PayloadError(f"device state direction {made.direction}, phase {made.phase}")
        return made


class CryptoSession(NamedTuple):
    """A crypto session, whose inside no specification describes: its raw bytes."""

    raw: bytes

    def pack(self) -> bytes:
        """1072 bytes, else `PayloadError`."""
        if len(self.raw) != _CRYPTO_SESSION_SIZE:
            raise PayloadError(
                f"a crypto session has {_CRYPTO_SESSION_SIZE} bytes, not {len(self.raw)}"
            )
        return self.raw

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 1072 bytes, else `PayloadError`."""
        if len(data) != _CRYPTO_SESSION_SIZE:
            raise PayloadError(
                f"a crypto session has {_CRYPTO_SESSION_SIZE} bytes, not {len(data)}"
            )
        return cls(bytes(data))


class Mmap(NamedTuple):
    """A mapping in a shared memory region (``flags`` bit 0: writable)."""

    shmid: int
    fd_offset: int
    shm_offset: int
    length: int
    flags: int

    def pack(self) -> bytes:
        """40 bytes."""
        return _MMAP.pack(*self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 40 bytes, else `PayloadError`."""
        return cls._make(_exact("a mapping", _MMAP, data))


class ShmemConfig(NamedTuple):
    """Shared memory regions of a device: how many there are, and the bytes of each id."""

    count: int  # type: ignore[assignment]  # as in VringState
    sizes: tuple[int, ...]

    def pack(self) -> bytes:
        """8 + 8 n bytes for n sizes, else `PayloadError`."""
        if len(self.sizes) > MAX_SHMEM_REGIONS:
            raise PayloadError(f"{len(self.sizes)} shared memory regions")
        return _SHMEM_CONFIG_HEAD.pack(self.count) + struct.pack(
            f"={len(self.sizes)}Q", *self.sizes
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From 8 + 8 n bytes with n of 256 at most, else `PayloadError`."""
        count, rest = divmod(len(data) - _SHMEM_CONFIG_HEAD.size, 8)
        if rest or not 0 <= count <= MAX_SHMEM_REGIONS:
            raise PayloadError(f"{len(data)} bytes are no list of shared memory regions")
        (told,) = _SHMEM_CONFIG_HEAD.unpack_from(data)
        if told > MAX_SHMEM_REGIONS:
            raise PayloadError(f"{told} shared memory regions")
        return cls(told, struct.unpack_from(f"={count}Q", data, _SHMEM_CONFIG_HEAD.size))


AnyPayload = (
    U64
    | VringState
    | VringAddr
    | MemTable
    | SingleRegion
    | LogArea
    | Iotlb
    | Config
    | VringArea
    | Inflight
    | SharedUuid
    | DeviceState
    | CryptoSession
    | Mmap
    | ShmemConfig
)


class Shape(NamedTuple):
    """What codec and table need to know of a payload's type.

    Attributes:
        smallest: bytes at least.
        largest: bytes at most (the same, for a fixed one).
        layout: the struct whose values are the payload's fields one by one, or None where
            `Payload.pack` and `Payload.unpack` have more to do than that.
    """

    smallest: int
    largest: int
    layout: struct.Struct | None


def _fixed(size: int) -> Shape:
    return Shape(size, size, None)


def _flat(layout: struct.Struct) -> Shape:
    return Shape(layout.size, layout.size, layout)


#: Every type of payload, and its shape.
SHAPES: dict[type[AnyPayload], Shape] = {
    U64: _flat(_U64),
    VringState: _flat(_VRING_STATE),
    VringAddr: _flat(_VRING_ADDR),
    MemTable: Shape(40, 8 + 32 * MAX_REGIONS, None),
    SingleRegion: _fixed(_SINGLE_REGION.size),
    LogArea: _flat(_LOG_AREA),
    Iotlb: _fixed(_IOTLB.size),
    Config: Shape(12, 12 + MAX_CONFIG, None),
    VringArea: _flat(_VRING_AREA),
    Inflight: _flat(_INFLIGHT),
    SharedUuid: _fixed(_SHARED_UUID_SIZE),
    DeviceState: _fixed(_DEVICE_STATE.size),
    CryptoSession: _fixed(_CRYPTO_SESSION_SIZE),
    Mmap: _flat(_MMAP),
    ShmemConfig: Shape(8, 8 + 8 * MAX_SHMEM_REGIONS, None),
}
