"""The floor: a C program that does the protocol's part of a stop and a start, and nothing else."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from emu.config.vm_spec import VmSpec

SOURCE = Path(__file__).with_name("floor.c")
PROGRAM = Path(__file__).with_name("floor")
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


@cache
def build() -> Path:
    """Compile the floor program with ``$CC``, or ``cc``; once in a session.

    Raises:
        NoCompilerError: there is no such compiler.
        RuntimeError: it does not compile.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(compiler[0]) is None:
        raise NoCompilerError(f"{compiler[0]}: no such C compiler; install one, or set CC")
    part = PROGRAM.with_name(f"floor.{os.getpid()}.o")  # replaced as a whole: another may run it
    argv = [*compiler, "-O2", "-Wall", "-Wextra", "-o", str(part), str(SOURCE)]
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
        if done.returncode:
            raise RuntimeError(f"the floor does not compile: {done.stderr.strip()}")
        part.replace(PROGRAM)
    finally:
        part.unlink(missing_ok=True)
    return PROGRAM


@cache
def measure(shape: tuple[str, ...]) -> Floor:
    """Run the floor program on a shape such as ``("16x32", "24x4")``; once in a session.

    Raises:
        NoCompilerError: it cannot be built here.
        RuntimeError: it failed.
    """
    done = subprocess.run(
        [str(build()), *shape], capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"the floor failed with {done.returncode}: {done.stderr.strip()}")
    return Floor(**json.loads(done.stdout))


def shape_of(spec: VmSpec) -> tuple[str, ...]:
    """The arguments that give the floor the sockets and rings of a VM."""
    return tuple(f"{group.count}x{group.rings}" for group in spec.groups)
