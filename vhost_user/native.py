"""Typed access to the compiled extension, and fallbacks where it was not built.

The shared object is called in two ways. cffi releases the interpreter lock around a call, which is
right for calls that take long (batches of system calls, hashing, scanning a log). For a call of a
few nanoseconds it is wrong: if another thread waits for the lock, releasing it wakes that thread
and takes microseconds. `barrier` and `log_marker` therefore use ``ctypes.PyDLL``, which keeps it.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhost_user import extension
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

ffi: Any = None
lib: Any = None
_held: Any = None
try:
    from vhost_user import _native

    extension.check(_native.lib, _native.__name__, Path(__file__).with_name("native"))
except ModuleNotFoundError:  # not built: slower, and without the features that need it
    available = False
except ImportError as error:  # the same, and a surprise
    available = False
    warnings.warn(str(error), RuntimeWarning, stacklevel=2)
else:
    available = True
    ffi = _native.ffi
    lib = _native.lib
    _held = ctypes.PyDLL(_native.__file__)  # the same object, loaded once

SHA256_STATE_SIZE = 40
_SHA256_START = (
    *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
    *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19),
)
_SHA256_BLOCK = 64


def require() -> None:
    """Check that the extension was built.

    Raises:
        UsageError: it was not built.
    """
    if not available:
        raise UsageError("needs the compiled extension: run `pip install -e .` again")


def _lock_barrier() -> Callable[[], None]:
    """A full fence with the standard library: acquiring a lock is an atomic read-modify-write."""
    lock = threading.Lock()
    acquire, release = lock.acquire, lock.release

    def barrier() -> None:
        acquire()
        release()

    return barrier


def _native_barrier() -> Callable[[], None]:
    fence = _held.vu_fence
    fence.argtypes = ()
    fence.restype = None
    return fence  # type: ignore[no-any-return]


def log_marker() -> Callable[[int, int, int, int], int]:
    """The function that marks pages in a dirty log, with atomic operations.

    It takes the address of the log, its bytes, a guest-physical address and a length, and returns
    0 or EINVAL.

    Raises:
        UsageError: the extension was not built.
    """
    require()
    mark = _held.vu_log_mark
    mark.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
    mark.restype = ctypes.c_int
    return mark  # type: ignore[no-any-return]


python_barrier = _lock_barrier()
#: A full memory fence: no load or store moves across it, for other threads and processes.
barrier = _native_barrier() if available else python_barrier
#: Whether this processor may reorder two loads, or two stores: rings need a fence there as well.
#: x86 only moves a load before an earlier store.
WEAKLY_ORDERED = platform.machine() not in {"x86_64", "AMD64", "i686", "i386"}


def address_of(buffer: memoryview) -> int:
    """The address of a writable buffer in this process; valid as long as the buffer exists."""
    require()
    return int(ffi.cast("uintptr_t", ffi.from_buffer(buffer, require_writable=True)))


class Sha256State:
    """SHA-256 over whole blocks, with its state in 40 bytes of memory of the caller.

    The memory has 8 u32 (the state) and one u64 (bytes hashed so far), in the host's byte order.
    There is no other state: another process that maps the same bytes can continue.
    """

    def __init__(self, memory: memoryview) -> None:
        require()
        if memory.nbytes != SHA256_STATE_SIZE:
            raise UsageError(f"a SHA-256 state is 40 bytes, not {memory.nbytes}")
        self._words = memory[:32].cast("I")
        self._length = memory[32:].cast("Q")
        self._state = ffi.from_buffer("uint32_t[8]", memory[:32], require_writable=True)

    def reset(self) -> None:
        """Begin a new hash."""
        self._words[:] = memoryview(struct.pack("=8I", *_SHA256_START)).cast("I")
        self._length[0] = 0

    @property
    def length(self) -> int:
        """Bytes hashed so far."""
        return self._length[0]

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Hash more data, a multiple of 64 bytes.

        Raises:
            UsageError: the data does not consist of whole blocks.
        """
        size = len(data)
        if size % _SHA256_BLOCK:
            raise UsageError(f"SHA-256 needs a multiple of 64 bytes here, not {size} bytes")
        lib.vu_sha256_blocks(self._state, ffi.from_buffer(data), size // _SHA256_BLOCK)
        self._length[0] += size

    def hexdigest(self) -> str:
        """The digest of what was hashed so far; the state does not change."""
        state = ffi.new("uint32_t[8]", list(self._words))
        padding = b"\x80" + bytes(55) + struct.pack(">Q", 8 * self.length)  # whole blocks so far
        lib.vu_sha256_blocks(state, padding, 1)
        return struct.pack(">8I", *state).hex()
