"""Landlock: a process gives up its access to files, except for removing them in some directories.

The interface is three system calls (the kernel's Documentation/userspace-api/landlock.rst). Open
descriptors keep their rights, and memfds can still be created.
"""

from __future__ import annotations

import ctypes
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# The numbers are the same on all architectures (include/uapi/asm-generic/unistd.h).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
# include/uapi/linux/landlock.h
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_FS_REMOVE_FILE = 1 << 5
#: All rights on files, by the version of the interface that introduced them.
_FS_RIGHTS = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
_NET_RIGHTS = {4: 3}
#: Signals to other processes. Abstract unix sockets stay permitted: an uplink's peer may be one.
_SCOPES = {6: 2}
_PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


class _Ruleset(ctypes.Structure):
    _fields_ = [("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64)]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("rights", ctypes.c_uint64), ("directory", ctypes.c_int32)]


def version() -> int:
    """The version of the kernel's interface; 0 without Landlock."""
    answer: int = _libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), _CREATE_RULESET_VERSION)
    return max(0, answer)


def restrict(removable: Iterable[Path]) -> bool:
    """Restrict this thread, and those that it starts from now on; for good.

    They cannot open, create or execute files, use TCP, or send signals to other processes, as far
    as the kernel's version of the interface has these rights.

    Args:
        removable: directories in which files may still be removed.

    Returns:
        False, and nothing is restricted, if the kernel has no Landlock.

    Raises:
        OSError: the kernel refuses it.
    """
    abi = version()
    if not abi:
        return False
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    wanted = _Ruleset(*(_known(each, abi) for each in (_FS_RIGHTS, _NET_RIGHTS, _SCOPES)))
    # An older kernel knows a shorter structure, and accepts a longer one that ends in zeroes.
    ruleset = _check(_libc.syscall(_CREATE_RULESET, ctypes.byref(wanted), ctypes.sizeof(wanted), 0))
    try:
        for path in set(removable):
            _allow_removals(ruleset, path)
        _check(_libc.syscall(_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)
    return True


def _allow_removals(ruleset: int, path: Path) -> None:
    directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        rule = _PathBeneath(_FS_REMOVE_FILE, directory)
        _check(_libc.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0))
    finally:
        os.close(directory)


def _known(rights: dict[int, int], abi: int) -> int:
    return sum(bits for first, bits in rights.items() if first <= abi)


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
