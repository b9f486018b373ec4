"""The floors: C programs that do the protocol's part of a stop and a start, or the vCPUs' part.

And one that does the front-end's part only, with the back-ends that ours has.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from array import array
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from vhost_user.codec import HEADER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.procedure import Ask
    from emu.config.vm_spec import VmSpec

SOURCE = Path(__file__).with_name("floor.c")
KVM_SOURCE = Path(__file__).with_name("kvm_floor.c")
FRONT_END_SOURCE = Path(__file__).with_name("front_end_floor.c")
#: Of a vring state and of an acknowledgement: the header and 8 bytes.
REPLY_BYTES = HEADER.size + 8
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


def _run(source: Path, *arguments: str, data: bytes | None = None, fds: Sequence[int] = ()) -> Any:
    """The document that a floor program prints.

    Args:
        source: of the program.
        arguments: of the program.
        data: its standard input.
        fds: descriptors that it inherits, with the same numbers.
    """
    done = subprocess.run(
        [str(build(source)), *arguments],
        input=data,
        capture_output=True,
        pass_fds=fds,
        timeout=RUN_SECONDS,
        check=False,
    )
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip()
        raise RuntimeError(f"the floor failed with {done.returncode}: {reason}")
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


def exchange(steps: Sequence[Ask]) -> int:
    """Nanoseconds to send the messages of these steps, all in flight, and to receive the replies.

    The sessions of the connections know nothing of it: each has to be replaced by a new one.

    Args:
        steps: of devices that are connected.

    Raises:
        NoCompilerError: the program cannot be built here.
        RuntimeError: it failed.
    """
    words, fds = [array("I", [len(steps)]).tobytes()], set[int]()
    for _, connection, batch in steps:
        fds.add(connection.fileno())
        due = REPLY_BYTES * len(batch.answered)
        words.append(array("I", [connection.fileno(), due, len(batch.writes)]).tobytes())
        for data, passed in batch.writes:
            fds.update(passed)
            words.append(array("I", [len(data), len(passed), *passed]).tobytes() + data)
    return int(_run(FRONT_END_SOURCE, data=b"".join(words), fds=tuple(fds)))


def shape_of(spec: VmSpec) -> tuple[str, ...]:
    """The arguments that give the floor the sockets and rings of a VM."""
    return tuple(f"{group.count}x{group.rings}" for group in spec.groups)
