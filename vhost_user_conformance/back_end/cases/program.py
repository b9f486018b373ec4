"""VU-B-25xx: the conventions for back-end programs: options, signals, capabilities."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import (
    Failed,
    Severity,
    check,
    observed,
    unsupported,
)
from vhost_user_conformance.peer.patience import Limit
from vhost_user_conformance.peer.program import CONNECT_FACTOR
from vhost_user_conformance.peer.spawn import end_with_parent, signal_session, signals_deferred
from vhost_user_conformance.peer.wire import Wire, WireError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from vhost_user_conformance.peer.program import PeerProgram

area = Area("program", BACK_END, "Backend program conventions")

#: Types of devices (QEMU's docs/interop/vhost-user.json).
TYPES = frozenset(
    [
        "9p",
        "balloon",
        "block",
        "caif",
        "console",
        "crypto",
        "gpu",
        "input",
        "net",
        "rng",
        "rpmsg",
        "rproc-serial",
        "scsi",
        "vsock",
        "fs",
    ]
)
#: Seconds for a program to end after SIGTERM, and to print its capabilities.
SOON, PRINTED = 3.0, 10.0
#: Seconds after which a program that has not ended after `SOON` does not end any more.
AT_LAST = 15.0
_PATH = "--socket-path"


def _program(be: BackEnd) -> PeerProgram:
    if be.program is None:
        unsupported("needs the program: use --exec")
    return be.program


@contextlib.contextmanager
def _started(
    command: Sequence[str], fds: Sequence[int], *, stdin: int, stdout: int
) -> Iterator[subprocess.Popen[bytes]]:
    """A program besides the one under test, in a session of its own that ends with the context."""
    with contextlib.ExitStack() as owned:
        with signals_deferred():
            program = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.DEVNULL,
                pass_fds=fds,
                start_new_session=True,
                # It takes no lock that the thread of the progress line could hold.
                preexec_fn=end_with_parent,  # noqa: PLW1509
            )
            owned.callback(_end, program)
        yield program


def _end(program: subprocess.Popen[bytes]) -> None:
    with program:
        if program.stdin is not None:
            program.stdin.close()
        signal_session(program.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(SOON)
        signal_session(program.pid, signal.SIGKILL)


def _run(words: Sequence[str], fds: Sequence[int] = ()) -> tuple[int, bytes]:
    """Run it to its end, without input; its status and output.

    Raises:
        subprocess.TimeoutExpired: it does not end.
    """
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    with _started(words, fds, stdin=nothing, stdout=pipe) as program:
        printed, _ = program.communicate(timeout=PRINTED)
    return program.returncode, printed


def _capabilities(be: BackEnd) -> Any:
    """Its capabilities. Raises `Unsupported` if it does not know --print-capabilities."""
    words = _program(be).words
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = [word.replace("{socket}", f"{folder}/s") for word in words]
        try:
            status, printed = _run([*elsewhere, "--print-capabilities"])
        except subprocess.TimeoutExpired:
            unsupported("it does not know --print-capabilities: it keeps running")
    if status or not printed.strip():
        unsupported(f"it does not know --print-capabilities: status {status}, nothing printed")
    try:
        return json.loads(printed)
    except ValueError:
        text = printed[:80].decode(errors="replace")
        raise Failed("JSON on standard output", repr(text)) from None


@area.case(
    2501,
    "--print-capabilities prints JSON and ends with status 0, with any other options",
)
def prints(be: BackEnd) -> None:
    printed = _capabilities(be)
    check(isinstance(printed, dict), "an object", repr(printed)[:80])


@area.case(2502, "--print-capabilities names a type of device, and features if there are any")
def names_type(be: BackEnd) -> None:
    printed = _capabilities(be)
    kind, features = printed.get("type"), printed.get("features", [])
    check(kind in TYPES, "a type of the schema", repr(kind))
    check(
        isinstance(features, list) and all(isinstance(each, str) for each in features),
        "features as a list of names",
        repr(features)[:80],
    )


@area.case(2503, "The program stays in the foreground: the process that was started serves")
def foreground(be: BackEnd) -> None:
    program = _program(be)
    be.barrier()
    check(program.running, "the program to run while it answers", program.how_it_ended)


def _ends(be: BackEnd) -> None:
    program = _program(be)
    program.ask_to_end()
    limit = Limit(SOON, program.pid)
    while not program.ends_within(limit.left) and not limit.over:
        pass
    if program.running:
        # "As quickly and cleanly as possible", and killed "after a few seconds": no number.
        check(program.ends_within(AT_LAST), "an end at SIGTERM", f"it runs {AT_LAST:g} s later")
        observed(f"it takes more than {SOON:g} s to end")
    ended_well = program.terminated or not program.crashed
    check(ended_well, "an end by SIGTERM, or by itself", program.how_it_ended)


@area.case(2504, "The program ends soon after SIGTERM")
def ends_idle(be: BackEnd) -> None:
    be.barrier()
    _ends(be)


@area.case(2505, "The program ends soon after SIGTERM while rings run", works=True)
def ends_busy(be: BackEnd) -> None:
    _program(be)
    be.serve(be.working_ring())
    _ends(be)


def _with_fd(words: Sequence[str], fd: int, path: Path | None = None) -> list[str]:
    """The command with --fd instead of its --socket-path, or with both.

    Raises:
        Unsupported: it has no --socket-path.
    """
    line = "\0".join(words).replace(f"{_PATH}\0", f"{_PATH}=")
    named = f"{_PATH}={{socket}}"
    if named not in line:
        unsupported(f"the command has no {named}")
    also = "" if path is None else f"\0{_PATH}={path}"
    return line.replace(named, f"--fd={fd}{also}").split("\0")


def _answers(be: BackEnd, theirs: socket.socket, connect: Callable[[], socket.socket]) -> bool:
    """Whether the program answers a front-end on this socket, its --fd."""
    command = _with_fd(_program(be).words, theirs.fileno())
    pipe, nothing = subprocess.PIPE, subprocess.DEVNULL
    with (
        _started(command, [theirs.fileno()], stdin=pipe, stdout=nothing),
        # Connected while the socket is open here: a program may end before it listens. Its first
        # answer comes when it has started.
        contextlib.closing(Wire(connect(), {}, CONNECT_FACTOR * be.timeout)) as wire,
    ):
        theirs.close()
        try:
            wire.send(F.GET_FEATURES)
            return wire.receive().id == F.GET_FEATURES
        except WireError:
            return False


@area.case(2506, "With --fd a connected socket is served", severity=Severity.SHOULD)
def inherited(be: BackEnd) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        if _answers(be, theirs, lambda: ours):
            return
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        path = f"{folder}/s"
        listener.bind(path)
        listener.listen(1)

        def connect() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            return sock

        if _answers(be, listener, connect):
            observed("it accepts a listening socket, but not a connected one")
    raise Failed("GET_FEATURES answered on the socket of --fd", "it is not")


@area.case(2507, "--fd and --socket-path together are refused", severity=Severity.SHOULD)
def both(be: BackEnd) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, tempfile.TemporaryDirectory() as folder:
        words = _with_fd(_program(be).words, theirs.fileno(), Path(folder) / "s")
        try:
            status, _ = _run(words, [theirs.fileno()])
        except subprocess.TimeoutExpired:
            raise Failed("a status other than 0", f"it runs after {PRINTED:g} s") from None
    check(status != 0, "a status other than 0", "status 0")
