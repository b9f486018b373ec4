"""The sandbox of a back-end program, which it enters when its devices are made.

A seccomp filter (libseccomp) permits the system calls that serving needs, and no others. A program
in the sandbox cannot open, create or execute files, create sockets, start processes, or map memory
as executable. Landlock, where the kernel has it, denies the access to files a second time. At its
end the program removes its sockets, which Landlock permits in their directories only.

docs/security.md describes what a compromised program can still do.
"""

from __future__ import annotations

import ast  # noqa: F401  imported by traceback from Python 3.13 on
import errno
import importlib
import linecache  # noqa: F401  this, tokenize and traceback: to print a traceback in the sandbox
import mmap
import os
import socket
import tokenize  # noqa: F401
import traceback  # noqa: F401
from typing import TYPE_CHECKING, Any, NamedTuple

from backends import landlock

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import ModuleType

#: The Python bindings of libseccomp: its own (Debian: python3-seccomp), and PyPI's of the same API.
BINDINGS = ("seccomp", "pyseccomp")


class SandboxError(Exception):
    """There can be no sandbox here; the text has the reason."""


class _If(NamedTuple):
    """A call is permitted only if these bits of an argument have this value."""

    argument: int
    mask: int
    value: int


# Calls that are permitted with any arguments. Those that this architecture lacks have no effect.
#: Open files.
_FILES = """
read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek _llseek fsync
fdatasync sync_file_range fallocate ftruncate fadvise64 flock fcntl fcntl64 close close_range
dup dup2 dup3
"""
#: Metadata of a file.
_METADATA = """
fstat fstat64 newfstatat fstatat64 statx lstat lstat64 stat stat64 fstatfs fstatfs64
"""
#: Waiting, and waking other threads.
_EVENTS = """
pipe pipe2 eventfd eventfd2 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
epoll_pwait2 poll ppoll ppoll_time64 select _newselect pselect6 pselect6_time64 timerfd_create
timerfd_settime timerfd_gettime io_setup io_destroy io_submit io_getevents io_cancel
io_pgetevents
"""
#: Open sockets.
_SOCKETS = """
accept accept4 recvmsg recvfrom recv sendmsg sendto send shutdown getsockopt getsockname
getpeername
"""
#: The program's own memory.
_MEMORY = """
brk munmap mremap madvise mincore mlock munlock membarrier memfd_create userfaultfd
"""
#: Threads, signals and the end.
_THREADS = """
futex futex_time64 set_robust_list get_robust_list rseq sched_yield sched_getaffinity getcpu
rt_sigaction rt_sigprocmask rt_sigreturn sigreturn rt_sigtimedwait sigaltstack restart_syscall
exit exit_group
"""
#: Clocks, random numbers, and the ids of the process and its user.
_INFORMATION = """
clock_gettime clock_gettime64 clock_getres clock_nanosleep clock_nanosleep_time64 nanosleep
gettimeofday time times getrusage sysinfo getrandom getpid gettid getppid getuid geteuid getgid
getegid
"""
_GROUPS = (_FILES, _METADATA, _EVENTS, _SOCKETS, _MEMORY, _THREADS, _INFORMATION)
#: libseccomp's number of a call that it does not know.
_UNKNOWN = -1
_CLONE_THREAD = 0x10000
_PR_SET_NAME = 15
_LOW = 0xFFFFFFFF

#: ioctl(2): non-blocking and close-on-exec, terminals (is it one, does it still control the
#: process), userfaultfd. No TIOCSTI: it would type into the terminal.
_IOCTLS = (
    *(0x5421, 0x5451, 0x5450, 0x5401, 0x540F),
    *(0xC018AA3F, 0xC020AA00, 0x8010AA01, 0x8010AA02, 0xC028AA03, 0xC020AA04),
)

#: Calls that are permitted with some arguments: one of the conditions has to hold.
_CONDITIONAL: dict[str, tuple[_If, ...]] = {
    "clone": (_If(0, _CLONE_THREAD, _CLONE_THREAD),),  # a thread, but no process
    "mmap": (_If(2, mmap.PROT_EXEC, 0),),
    "mmap2": (_If(2, mmap.PROT_EXEC, 0),),
    "mprotect": (_If(2, mmap.PROT_EXEC, 0),),
    "ioctl": tuple(_If(1, _LOW, request) for request in _IOCTLS),
    "prctl": (_If(0, _LOW, _PR_SET_NAME),),
    "setsockopt": tuple(
        _If(2, _LOW, option) for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)
    ),
}
#: Calls that have a process as an argument: permitted for this process. abort(3) needs tgkill.
_ON_ITSELF = ("tgkill", "process_vm_readv", "process_vm_writev")
#: Calls that the program needs at its end; permitted only where Landlock restricts them.
_REMOVALS = "unlink unlinkat"


def confine(directories: Iterable[Path]) -> None:
    """Put this process into the sandbox: all its threads, for good.

    Args:
        directories: those of the program's sockets, which it can then remove at its end. Without
            Landlock it cannot remove them.

    Raises:
        SandboxError: there is no seccomp filter. Landlock is in force if the kernel has it.
    """
    try:
        try:
            made = _filter(_library(), removals=landlock.version() > 0)
        finally:
            landlock.restrict(directories)
        made.load()
    except (OSError, RuntimeError) as error:  # RuntimeError: libseccomp's own bindings
        raise SandboxError(str(error)) from error


def _library() -> ModuleType:
    reasons = []
    for name in BINDINGS:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            reasons.append(f"the Python module {name} is missing")
        except (ImportError, RuntimeError, OSError) as error:  # pyseccomp without libseccomp2
            raise SandboxError(f"{name}: {error}") from error
    raise SandboxError(reasons[-1])


def _filter(library: ModuleType, *, removals: bool) -> Any:
    """A filter that is not in force yet; a call without a rule in it fails with EPERM."""
    made = library.SyscallFilter(library.ERRNO(errno.EPERM))
    # System calls of another architecture, such as those of 32-bit code: no library uses them.
    made.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    # Threads that a plugin has started may exist already.
    made.set_attr(library.Attr.CTL_TSYNC, 1)

    def add(action: int, name: str, condition: _If | None = None) -> None:
        if not _exists(library, name):
            return
        arguments = [] if condition is None else [_argument(library, condition)]
        made.add_rule(action, name, *arguments)

    for group in (*_GROUPS, *((_REMOVALS,) if removals else ())):
        for name in group.split():
            add(library.ALLOW, name)
    for name, conditions in _CONDITIONAL.items():
        for condition in conditions:
            add(library.ALLOW, name, condition)
    for name in _ON_ITSELF:
        add(library.ALLOW, name, _If(0, _LOW, os.getpid()))
    # Its flags are in memory, which no filter can read: the C library then uses clone.
    add(library.ERRNO(errno.ENOSYS), "clone3")
    return made


def _argument(library: ModuleType, condition: _If) -> Any:
    return library.Arg(
        condition.argument, library.MASKED_EQ, condition.mask, condition.value & condition.mask
    )


def _exists(library: ModuleType, name: str) -> bool:
    """Whether this version of libseccomp knows the call, at least on another architecture."""
    try:
        return bool(library.resolve_syscall(library.Arch.NATIVE, name) != _UNKNOWN)
    except ValueError:
        return False
