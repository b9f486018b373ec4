"""Payloads of vhost-user messages: one NamedTuple each, in host byte order.

Each class registers its layout, see `vhost_user.payload_layout`. Sizes are those on the wire:
where the specification leaves out a structure's padding (IOTLB, inflight description), peers
send it, and so does this library.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Self

from vhost_user.payload_layout import PayloadError, layout_of, pack_fields, payload, unpack_fields

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

_MEMORY_REGION = struct.Struct("=QQQQ")
_MEM_TABLE_HEAD = struct.Struct("=I4x")
_CONFIG_HEAD = struct.Struct("=III")
_SHARED_UUID_SIZE = 16
_CRYPTO_SESSION_SIZE = 1072
_SHMEM_CONFIG_HEAD = struct.Struct("=I4x")


@payload("=Q")
class U64(NamedTuple):
    """A 64-bit value: features, an acknowledgement (0 is success), a vring index with flags."""

    value: int

    def pack(self) -> bytes:
        """8 bytes."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 8 bytes, else `PayloadError`."""
        return cls._make(unpack_fields(cls, data))


@payload("=II")
class VringState(NamedTuple):
    """The index of a vring and a number: its size, base, enable bit or endianness."""

    ring: int
    num: int

    def pack(self) -> bytes:
        """8 bytes."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 8 bytes, else `PayloadError`."""
        return cls._make(unpack_fields(cls, data))


@payload("=IIQQQQ")
class VringAddr(NamedTuple):
    """Where a vring's three parts lie.

    Attributes:
        ring: index of the vring.
        flags: `VRING_F_LOG` or 0.
        desc: user address of the descriptor table (so are ``used`` and ``avail``).
        used: user address of the used ring.
        avail: user address of the available ring.
        log: guest physical address to log the used ring's first byte at.
    """

    ring: int
    flags: int
    desc: int
    used: int
    avail: int
    log: int

    def pack(self) -> bytes:
        """40 bytes."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 40 bytes, else `PayloadError`."""
        return cls._make(unpack_fields(cls, data))


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
        return cls._make(_MEMORY_REGION.unpack(data))


@payload(sizes=(40, 8 + 32 * MAX_REGIONS))
class MemTable(NamedTuple):
    """SET_MEM_TABLE: up to 8 regions, each with a descriptor, in the same order; 0 remove all."""

    regions: tuple[MemoryRegion, ...]

    def pack(self) -> bytes:
        """8 + 32 n bytes: only as many regions as there are.

        Raises:
            PayloadError: there are more than `MAX_REGIONS`.
        """
        if len(self.regions) > MAX_REGIONS:
            raise PayloadError(f"a memory table has {MAX_REGIONS} regions at the most")
        return _MEM_TABLE_HEAD.pack(len(self.regions)) + b"".join(r.pack() for r in self.regions)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From 8 + 32 n bytes for the n in the first four, else `PayloadError`."""
        if len(data) < _MEM_TABLE_HEAD.size:
            raise PayloadError(f"a memory table has more than {len(data)} bytes")
        count: int = _MEM_TABLE_HEAD.unpack_from(data)[0]
        if count > MAX_REGIONS:
            raise PayloadError(f"a memory table has {MAX_REGIONS} regions at the most, not {count}")
        if len(data) != _MEM_TABLE_HEAD.size + count * _MEMORY_REGION.size:
            raise PayloadError(f"{count} regions do not take {len(data)} bytes")
        regions = _MEMORY_REGION.iter_unpack(data[_MEM_TABLE_HEAD.size :])
        return cls(tuple(map(MemoryRegion._make, regions)))


@payload("=8xQQQQ", plain=False)
class SingleRegion(NamedTuple):
    """ADD_MEM_REG and REM_MEM_REG: one region after 8 bytes of padding."""

    region: MemoryRegion

    def pack(self) -> bytes:
        """40 bytes."""
        return layout_of(SingleRegion).pack(*self.region)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 40 bytes, else `PayloadError`."""
        return cls(MemoryRegion._make(unpack_fields(cls, data)))


@payload("=QQ")
class LogArea(NamedTuple):
    """SET_LOG_BASE: bytes of the dirty log, and its offset in its descriptor."""

    size: int
    offset: int

    def pack(self) -> bytes:
        """16 bytes."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 16 bytes, else `PayloadError`."""
        return cls._make(unpack_fields(cls, data))


@payload("=QQQBB6x", plain=False)
class Iotlb(NamedTuple):
    """An IOTLB message: ``perm`` is 1 read, 2 write; ``type`` 1 miss .. 4 access failure."""

    iova: int
    size: int
    user_addr: int
    perm: int
    type: int

    def pack(self) -> bytes:
        """32 bytes, with the padding that the kernel's structure has."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 32 bytes with a known permission and type, else `PayloadError`."""
        made = cls._make(unpack_fields(cls, data))
        if made.perm > 3 or not 1 <= made.type <= 4:
            raise PayloadError(f"IOTLB permission {made.perm}, type {made.type}")
        return made


@payload(sizes=(12, 12 + MAX_CONFIG))
class Config(NamedTuple):
    """A part of the device's configuration space.

    Attributes:
        offset: first byte within the space.
        flags: 0 when the guest writes, 1 when a migration does.
        data: the bytes; in a GET_CONFIG request only their number counts.
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


@payload("=QQQ")
class VringArea(NamedTuple):
    """A host notifier's area: vring index (bit 8: no descriptor), bytes, offset in the fd."""

    index_flags: int
    size: int
    offset: int

    def pack(self) -> bytes:
        """24 bytes."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 24 bytes, else `PayloadError`."""
        return cls._make(unpack_fields(cls, data))


@payload("=QQHH4x")
class Inflight(NamedTuple):
    """The inflight region: its bytes, its offset in the fd, number and size of its rings."""

    mmap_size: int
    mmap_offset: int
    num_queues: int
    queue_size: int

    def pack(self) -> bytes:
        """24 bytes, with the padding of the C structure."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 24 bytes, else `PayloadError`."""
        return cls._make(unpack_fields(cls, data))


@payload(sizes=(_SHARED_UUID_SIZE, _SHARED_UUID_SIZE))
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


@payload("=II", plain=False)
class DeviceState(NamedTuple):
    """A transfer of device state: direction (0 save, 1 load), phase (0: all rings stopped)."""

    direction: int
    phase: int

    def pack(self) -> bytes:
        """8 bytes."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 8 bytes with a known direction and phase, else `PayloadError`."""
        made = cls._make(unpack_fields(cls, data))
        if made.direction > 1 or made.phase != 0:
            raise PayloadError(f"device state direction {made.direction}, phase {made.phase}")
        return made


@payload(sizes=(_CRYPTO_SESSION_SIZE, _CRYPTO_SESSION_SIZE))
class CryptoSession(NamedTuple):
    """A crypto session as raw bytes: its layout is not specified."""

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


@payload("=B7xQQQQ")
class Mmap(NamedTuple):
    """A mapping in a shared memory region (``flags`` bit 0: writable)."""

    shmid: int
    fd_offset: int
    shm_offset: int
    length: int
    flags: int

    def pack(self) -> bytes:
        """40 bytes."""
        return pack_fields(self)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From exactly 40 bytes, else `PayloadError`."""
        return cls._make(unpack_fields(cls, data))


@payload(sizes=(8, 8 + 8 * MAX_SHMEM_REGIONS))
class ShmemConfig(NamedTuple):
    """Shared memory regions of a device: how many there are, and the bytes of each id."""

    num_regions: int
    sizes: tuple[int, ...]

    def pack(self) -> bytes:
        """8 + 8 n bytes for n sizes, else `PayloadError`."""
        if len(self.sizes) > MAX_SHMEM_REGIONS:
            raise PayloadError(f"{len(self.sizes)} shared memory regions")
        return _SHMEM_CONFIG_HEAD.pack(self.num_regions) + struct.pack(
            f"={len(self.sizes)}Q", *self.sizes
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From 8 + 8 n bytes with n of 256 at most, else `PayloadError`."""
        count, rest = divmod(len(data) - _SHMEM_CONFIG_HEAD.size, 8)
        if rest or not 0 <= count <= MAX_SHMEM_REGIONS:
            raise PayloadError(f"{len(data)} bytes are not a list of shared memory regions")
        (announced,) = _SHMEM_CONFIG_HEAD.unpack_from(data)
        if announced > MAX_SHMEM_REGIONS:
            raise PayloadError(f"{announced} shared memory regions")
        return cls(announced, struct.unpack_from(f"={count}Q", data, _SHMEM_CONFIG_HEAD.size))
