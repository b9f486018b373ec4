"""The checks of `emu doctor`: features and limits of this host."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psutil

from backends import landlock
from emu import distribution
from emu.config.vm_spec import VmSpec
from emu.errors import EmuError
from emu.machine.accel import registry
from emu.orchestrator import host_limits
from emu.orchestrator.network.namespaces import NamespaceNetwork

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds for a program that a check runs.
_TIMEOUT = 10.0
#: userfaultfd(2) has no wrapper in the C library: its number by machine, and the flag (of Linux
#: 5.11) with which a user without privileges may call it.
_USERFAULTFD = {"x86_64": 323, "aarch64": 282}
_USER_MODE_ONLY = 1
_GIB = 1 << 30
_ENTER_SANDBOX = """
import sys
from backends.sandbox import SandboxError, confine
try:
    confine(())
except SandboxError as error:
    sys.exit(str(error))
"""


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        what: the feature or limit.
        good: whether it is sufficient.
        here: its value on this host.
        advice: what to do if it is not good.
        needed: without it no VM runs; otherwise only the feature that `advice` names is missing.
    """

    what: str
    good: bool
    here: str
    advice: str = ""
    needed: bool = False


def examine() -> list[Finding]:
    """Run all checks; they need no privileges and leave no files."""
    return [check() for check in _CHECKS]


def _packages() -> Finding:
    line = distribution.conflict()
    own = ", ".join(distribution.PACKAGES)
    return Finding("packages", not line, own, line, needed=True)


def _cores() -> Finding:
    count = len(os.sched_getaffinity(0))
    advice = "the VM and its back-ends share one core, so every figure is a worst case: use two"
    return Finding("cores", count > 1, f"{count}, {platform.machine()}", advice)


def _memory() -> Finding:
    spec = VmSpec()
    available = psutil.virtual_memory().available
    needed = host_limits.memory_needed(spec)
    here = f"{available / _GIB:.1f} GiB available, the default VM takes at most {needed / _GIB:.1f}"
    advice = "ask for fewer rings (--net, --blk)"
    return Finding("memory", available >= needed, here, advice)


def _memfd() -> Finding:
    size = VmSpec().memory_bytes
    advice = "guest memory is a sparse memfd: use Linux 3.17 or later, and lift `ulimit -v`"
    try:
        fd = os.memfd_create("doctor", os.MFD_CLOEXEC)
        try:
            os.ftruncate(fd, size)
            mmap.mmap(fd, size).close()
        finally:
            os.close(fd)
    except OSError as error:
        return Finding("memfd", good=False, here=str(error.strerror), advice=advice, needed=True)
    return Finding("memfd", good=True, here=f"{size // _GIB} GiB, sparse", needed=True)


def _descriptors() -> Finding:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = host_limits.descriptors_needed(VmSpec())
    unlimited = hard == resource.RLIM_INFINITY
    here = f"{'no limit' if unlimited else hard}, the default VM needs {needed}"
    advice = "raise the hard limit (ulimit -Hn, or LimitNOFILE=), or ask for a smaller VM"
    return Finding("open files", unlimited or hard >= needed, here, advice, needed=True)


def _accelerator(name: str) -> Finding:
    what = f"--accel {name}"
    try:
        most = registry.limits(name)
    except EmuError as error:
        advice = f"--accel auto is {registry.resolve(registry.AUTO)} here"
        return Finding(what, good=False, here=str(error), advice=advice)
    here = f"{most.max_vcpus} vCPUs, {most.max_routes} interrupt routes, "
    return Finding(what, good=True, here=here + f"{most.max_ioeventfds} ioeventfds")


def _user_namespaces() -> Finding:
    advice = (
        "--network netns needs them: sysctl user.max_user_namespaces=1000, and on some systems "
        "kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0"
    )
    program = shutil.which("unshare")
    if program is None:
        return Finding("user namespaces", good=False, here="unshare is missing: install util-linux")
    ended = subprocess.run(
        [program, "--user", "--map-root-user", "--net", "true"],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )
    here = "with a network of their own" if not ended.returncode else ended.stderr.strip()
    return Finding("user namespaces", not ended.returncode, here, advice)


def _tap() -> Finding:
    advice = "--network netns needs it: load the modules tun, veth and bridge, and see /dev/net/tun"
    try:
        NamespaceNetwork.build().close()
    except (EmuError, OSError) as error:
        return Finding("TAP", good=False, here=str(error), advice=advice)
    return Finding("TAP", good=True, here="with bridge and veth, in a network namespace")


def _userfaultfd() -> Finding:
    advice = "back-end programs serve postcopy only with it: vm.unprivileged_userfaultfd=1"
    number = _USERFAULTFD.get(platform.machine())
    if number is None:
        return Finding("userfaultfd", good=False, here="unknown on this machine", advice=advice)
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(number, os.O_CLOEXEC | _USER_MODE_ONLY)
    if fd < 0:
        here = os.strerror(ctypes.get_errno())
        return Finding("userfaultfd", good=False, here=here, advice=advice)
    os.close(fd)
    return Finding("userfaultfd", good=True, here="for memory that user code touches")


def _sandbox() -> Finding:
    """Whether a program can enter the back-end programs' sandbox: another process tries it."""
    advice = (
        "back-end programs run without a seccomp filter: pip install 'vhost-emu[sandbox]', or "
        "install python3-seccomp where the packages of the system are used"
    )
    ended = subprocess.run(
        [sys.executable, "-c", _ENTER_SANDBOX],
        cwd="/",  # nothing is imported from the user's directory
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT,
    )
    if ended.returncode:
        return Finding("sandbox", good=False, here=ended.stderr.strip(), advice=advice)
    interface = landlock.version()
    if not interface:
        advice = "back-end programs leave their sockets at their end: use Linux 5.13, lsm=landlock"
        return Finding("sandbox", good=False, here="seccomp, no Landlock", advice=advice)
    return Finding("sandbox", good=True, here=f"seccomp, Landlock {interface}")


def _hugepages() -> Finding:
    sizes = []
    for folder in sorted(Path("/sys/kernel/mm/hugepages").glob("hugepages-*kB")):
        count = int((folder / "nr_hugepages").read_text())
        if count:
            sizes.append(f"{count} of {folder.name.removeprefix('hugepages-')}")
    advice = "a DPDK back-end needs them: sysctl vm.nr_hugepages=512 (2 MiB each)"
    return Finding("hugepages", bool(sizes), ", ".join(sizes) or "none reserved", advice)


_CHECKS: tuple[Callable[[], Finding], ...] = (
    _packages,
    _cores,
    _memory,
    _memfd,
    _descriptors,
    *(partial(_accelerator, name) for name in registry.ACCELERATORS),
    _user_namespaces,
    _tap,
    _userfaultfd,
    _sandbox,
    _hugepages,
)
