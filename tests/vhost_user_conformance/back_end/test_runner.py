"""The runner with back-ends that end or hang during the cases."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.timeouts import TIMEOUT
from vhost_user.features import DIALECTS
from vhost_user_conformance.back_end.connection import BackEnd, F
from vhost_user_conformance.back_end.runner import TRIES, BackEndRunner
from vhost_user_conformance.model.case import BACK_END, Area
from vhost_user_conformance.model.verdict import Failed, Verdict, check
from vhost_user_conformance.peer.program import PeerProgram, connect
from vhost_user_conformance.peer.wire import Closed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import ExitStack
    from pathlib import Path

#: Seconds for each answer.
ANSWER_TIMEOUT = 1.0
NET = f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}"


def started(folder: Path, owned: ExitStack) -> tuple[BackEndRunner, Callable[[], int]]:
    """A runner that starts the program, and a function for its process id."""
    program = PeerProgram(NET, folder / "s", folder / "log")
    owned.callback(program.stop)
    return runner(folder, program), lambda: program.pid


def found(folder: Path, owned: ExitStack) -> tuple[BackEndRunner, Callable[[], int]]:
    """A runner of a program that listens already."""
    argv = shlex.split(NET.replace("{socket}", str(folder / "s")))
    process = owned.enter_context(subprocess.Popen(argv))
    owned.callback(process.kill)
    connect(folder / "s", timeout=TIMEOUT, gone=lambda: "").close()
    return runner(folder, None), lambda: process.pid


def runner(folder: Path, program: PeerProgram | None) -> BackEndRunner:
    """A runner with a short time limit."""
    made = BackEndRunner(
        folder / "s", program, device="net", dialect=DIALECTS["spec"], timeout=ANSWER_TIMEOUT
    )
    made.probe()
    return made


def verdicts(made: BackEndRunner, pid: Callable[[], int], signum: int) -> list[tuple[Verdict, str]]:
    """The results of a case, of one that sends the back-end this signal, and of another one."""
    area = Area("a", BACK_END, "s")

    def strikes(be: BackEnd) -> None:
        be.ask_u64(F.GET_FEATURES)
        os.kill(pid(), signum)
        # The signal takes effect when the process is scheduled.
        os.waitid(os.P_PID, pid(), os.WEXITED | os.WSTOPPED | os.WNOWAIT)

    area.case(1, "one")(BackEnd.read_features)
    area.case(2, "strikes")(strikes)
    area.case(3, "another")(BackEnd.read_features)
    return [(one.verdict, one.seen) for one in made.run(area.cases, lambda _result: None)]


@pytest.mark.parametrize(
    ("signum", "text"),
    [
        (signal.SIGSEGV, "it ended by SIGSEGV"),
        (signal.SIGSTOP, "does not answer front-ends any more"),
    ],
)
def test_the_next_case_gets_a_fresh_peer(
    signum: int, text: str, tmp_path: Path, owned: ExitStack
) -> None:
    """The case after which it crashed or hangs has failed, although its own checks passed."""
    one, struck, other = verdicts(*started(tmp_path, owned), signum)
    assert one == other == (Verdict.PASS, "")
    assert struck[0] is Verdict.FAIL
    assert text in struck[1]


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSTOP])
def test_a_peer_that_cannot_be_started_again(signum: int, tmp_path: Path, owned: ExitStack) -> None:
    """Earlier results are kept, and the other cases end as ERROR."""
    one, struck, other = verdicts(*found(tmp_path, owned), signum)
    assert one == (Verdict.PASS, "")
    assert struck[0] is Verdict.FAIL
    assert other[0] is Verdict.ERROR
    assert "the peer cannot be reached" in other[1]


class SeenLate(PeerProgram):
    """A program whose end is not seen the first time, as on a busy host."""

    overlooked = False

    def ends_within(self, timeout: float) -> bool:
        """See `PeerProgram`."""
        ended = super().ends_within(5.0)
        if not self.overlooked:
            self.overlooked = True
            return False
        return ended


def test_a_program_that_ends_with_its_front_end(tmp_path: Path, owned: ExitStack) -> None:
    """With any status: the program is started again for the next front-end."""
    script = (
        "import os; from backends.ring import Ring; "
        "Ring.stop = lambda ring: os._exit(1); from backends.net import main; main()"
    )
    command = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} --socket-path {{socket}}"
    program = SeenLate(command, tmp_path / "s", tmp_path / "log")
    owned.callback(program.stop)
    area = Area("a", BACK_END, "s")
    for number in range(4):
        area.case(number, "looks")(BackEnd.read_features)
    results = runner(tmp_path, program).run(area.cases, lambda _result: None)
    assert [one.verdict for one in results] == [Verdict.PASS] * 4


@pytest.mark.parametrize(("holds", "verdict"), [(True, Verdict.ERROR), (False, Verdict.FAIL)])
def test_a_clean_up_that_fails(
    holds: bool, verdict: Verdict, tmp_path: Path, owned: ExitStack
) -> None:
    """It is that case's error, unless the peer has failed in it; all else is released."""
    area, given_back = Area("a", BACK_END, "s"), []

    def spoils(be: BackEnd) -> None:
        be.own(lambda: given_back.append("first"))
        os.close(be.spare_fd())
        be.own(lambda: given_back.append("last"))
        check(holds, "what holds", "what does not")

    area.case(1, "spoils")(spoils)
    area.case(2, "looks")(BackEnd.read_features)
    made, _ = started(tmp_path, owned)
    spoilt, other = made.run(area.cases, lambda _result: None)
    assert spoilt.verdict is verdict
    assert "its clean-up: OSError: [Errno 9]" in spoilt.seen
    assert given_back == ["last", "first"]
    assert other.verdict is Verdict.PASS


def small(mode: str, folder: Path, owned: ExitStack) -> BackEndRunner:
    """A runner for a back-end that serves front-ends in this way."""
    module = "tests.vhost_user_conformance.back_end.small_server"
    command = f"{shlex.quote(sys.executable)} -m {module} {mode} {{socket}}"
    program = PeerProgram(command, folder / "s", folder / "log")
    owned.callback(program.stop)
    return runner(folder, program)


def _offends(be: BackEnd) -> None:
    be.send(199)
    with suppress(Closed):
        be.barrier()


def _reconnects(be: BackEnd) -> None:
    be.reconnect()


def _fails(_be: BackEnd) -> None:
    raise Failed("this", "that")


@pytest.mark.parametrize(
    ("mode", "bodies", "wanted"),
    [
        # It lives and does not listen: no case waits for that, and none accuses it.
        ("once", (BackEnd.barrier, _reconnects, _fails), ("PASS", "UNSUPPORTED", "FAIL")),
        # A connection that is reset before its first answer is tried again.
        ("anew", (BackEnd.barrier, _reconnects, _reconnects), ("PASS", "PASS", "PASS")),
        # It ends with an error status after an illegal message, and no other front-end is lost.
        ("exits", (_offends, BackEnd.barrier), ("PASS", "PASS")),
        # It serves others at the same time, which lose their device.
        ("several", (_offends, BackEnd.barrier), ("FAIL", "PASS")),
        # It ends with an error status after a front-end that did nothing illegal.
        ("leaves", (BackEnd.barrier, BackEnd.barrier), ("FAIL", "PASS")),
    ],
)
def test_how_a_program_serves_its_front_ends(
    mode: str,
    bodies: Sequence[Callable[[BackEnd], Any]],
    wanted: Sequence[str],
    tmp_path: Path,
    owned: ExitStack,
) -> None:
    """A program that serves one front-end only is accused of nothing but its own mistakes."""
    made = small(mode, tmp_path, owned)
    area = Area("a", BACK_END, "s")
    for number, body in enumerate(bodies):
        area.case(number, body.__name__)(body)
    results = made.run(area.cases, lambda _result: None)
    assert [str(one.verdict) for one in results] == list(wanted), [one.seen for one in results]
    assert not made.gone


def test_a_program_that_never_answers_is_given_up_once(tmp_path: Path, owned: ExitStack) -> None:
    """The cases after the one that could not start it anew do not try again."""
    made, _ = started(tmp_path, owned)
    starts = []

    class Dead(PeerProgram):
        def start(self) -> None:
            starts.append(1)
            super().start()

    dead = Dead("false {socket}", tmp_path / "s", tmp_path / "log")
    owned.callback(dead.stop)
    area = Area("a", BACK_END, "s")
    for number in range(5):
        area.case(number, "looks")(BackEnd.read_features)
    first, *_ = area.cases

    def replace(_result: object) -> None:
        program = made._program
        assert program is not None
        if program is not dead:
            program.stop()
            made._program = dead

    results = made.run([first, *area.cases], replace)
    verdicts = [one.verdict for one in results]
    assert verdicts == [Verdict.PASS, Verdict.FAIL, *[Verdict.ERROR] * 4] or verdicts == [
        Verdict.PASS,
        *[Verdict.ERROR] * 5,
    ]
    assert len(starts) == TRIES
    assert "status 1" in made.gone
