"""A switch in shared memory: the test arms a fault, which the program injects into itself."""

from __future__ import annotations

import mmap
import os
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: In the order in which tables show them.
FAULTS = ("die", "hang", "refuse", "garbage", "close")
_SIZE = 64
#: How often the fault was injected, calls of `passes` until it is, the fault, the point.
_LAYOUT = struct.Struct("<IIB39s")
_ARMED = 63


class FaultSwitch:
    """The fault of one program, and the point at which it is injected.

    Args:
        path: the file that both processes map; it is created if it does not exist.
    """

    def __init__(self, path: str | Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(fd, _SIZE)
            self._map = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)

    def arm(self, point: str, fault: str, nth: int = 1) -> None:
        """Have the program do ``fault`` when it passes ``point`` for the ``nth`` time from now."""
        self.disarm()
        _LAYOUT.pack_into(self._map, 0, 0, nth, FAULTS.index(fault), point.encode())
        self._map[_ARMED] = 1

    def disarm(self) -> None:
        """Inject no fault any more."""
        self._map[_ARMED] = 0

    @property
    def fired(self) -> bool:
        """Whether the program has injected the fault since the switch was armed."""
        return bool(_LAYOUT.unpack_from(self._map)[0])

    def passes(self, point: str) -> str | None:
        """In the program: the fault that is due at this point, once; else None."""
        if not self._map[_ARMED]:
            return None
        fired, left, fault, where = _LAYOUT.unpack_from(self._map)
        if where.rstrip(b"\0").decode() != point:
            return None
        left -= 1
        if not left:
            self._map[_ARMED] = 0
            fired += 1
        _LAYOUT.pack_into(self._map, 0, fired, left, fault, where)
        return None if left else FAULTS[fault]

    def close(self) -> None:
        """Release the mapping."""
        self._map.close()
