"""The floors: C programs that do the protocol's part of a stop and a start, or the vCPUs' part."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec

SOURCE = Path(__file__).with_name("floor.c")
KVM_SOURCE = Path(__file__).with_name("kvm_floor.c")
BUILD_SECONDS = 60
RUN_SECONDS = 90


class NoCompilerError(Exception):
    """There is no C compiler to build the floor program."""


class Floor(NamedTuple):
    """Medians of what the floor measured on one shape, in nanoseconds.

    Attributes:
        sockets, rings: the shape.
        rounds: of how many rounds these are the medians.
        lockstep_ns: GET_VRING_BASE of all rings, one after the other.
        inflight_ns: the same, all in flight.
        activate_ns: BASE, ADDR and ENABLE of all rings in flight, acknowledged once per socket.
        start_ns: BASE and a kick of all rings, until each has signalled its call eventfd.
    """

    sockets: int
    rings: int
    rounds: int
    lockstep_ns: int
    inflight_ns: int
    activate_ns: int
    start_ns: int

    @property
    def downtime_ns(self) -> int:
        """The lower bound of the time for a stop and a start of all rings."""
        return self.inflight_ns + self.start_ns

    @property
    def lockstep_downtime_ns(self) -> int:
        """The same lower bound if one ring after the other is stopped."""
        return self.lockstep_ns + self.start_ns


class VcpuFloor(NamedTuple):
    """Medians of what the floor of KVM's vCPUs measured, in nanoseconds.

    Attributes:
        vcpus: how many it has.
        rounds: of how many rounds these are the medians.
        pause_ns: all of them leave KVM_RUN.
        save_ns: the state of each is read.
        load_ns: it is compared with the state that KVM has, which is the same.
        resume_ns: all of them enter KVM_RUN.
    """

    vcpus: int
    rounds: int
    pause_ns: int
    save_ns: int
    load_ns: int
    resume_ns: int


@cache
def build(source: Path = SOURCE) -> Path:
    """Compile a floor program with ``$CC``, or ``cc``; once in a session.

    Raises:
        NoCompilerError: there is no such compiler.
        RuntimeError: it does not compile.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise NoCompilerError(f"{compiler[0]}: no such C compiler; install one, or set CC")
    program = source.with_suffix("")
    # It is replaced as a whole: another process may run it.
    part = program.with_name(f"{program.name}.{os.getpid()}.o")
    options = ["-O2", "-Wall", "-Wextra", "-pthread"]
    argv = [*compiler, *options, "-o", str(part), str(source)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the floor does not compile: {done.stderr.strip()}")
        part.replace(program)
    finally:
        part.unlink(missing_ok=True)
    return program


def _run(source: Path, *arguments: str) -> Any:
    """The document that a floor program prints."""
    done = subprocess.run(
        [str(build(source)), *arguments],
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the floor failed with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)


@cache
def measure(shape: tuple[str, ...]) -> Floor:
    """Run the floor program on a shape such as ``("16x32", "24x4")``; once in a session.

    Raises:
        NoCompilerError: it cannot be built here.
        RuntimeError: it failed.
    """
    return Floor(**_run(SOURCE, *shape))


def measure_vcpus(count: int) -> VcpuFloor:
    """Run the floor of KVM's vCPUs with that many: each time anew, beside what is compared with it.

    Raises:
        NoCompilerError: it cannot be built here.
        RuntimeError: it failed: KVM cannot be used, for example.
    """
    return VcpuFloor(**_run(KVM_SOURCE, str(count)))


def shape_of(spec: VmSpec) -> tuple[str, ...]:
    """The arguments that give the floor the sockets and rings of a VM."""
    return tuple(f"{group.count}x{group.rings}" for group in spec.groups)
