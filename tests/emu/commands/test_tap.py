"""`emu tap` between the programs of this project, and between those of others."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from emu.commands.tap import tap
from emu.errors import OptionError
from tests.emu.runs import EMU, Run
from tests.emu.tap.taps import Sides
from tests.peers.programs import need
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import wait_until
from vhost_user.channel import connect
from vhost_user.codec import HEADER, VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

BLK = (sys.executable, "-m", "backends.blk")


class Rig:
    """A disk's back-end in a folder, and a tap before it."""

    def __init__(self, folder: Path, owned: contextlib.ExitStack) -> None:
        self.folder = folder
        self.owned = owned
        self.disk, self.tapped = str(folder / "disk.sock"), str(folder / "tap.sock")
        self.image = folder / "disk.img"
        with self.image.open("wb") as file:
            file.truncate(4 << 20)

    @property
    def serve(self) -> str:
        """The command of the back-end."""
        return f"{sys.executable} -m backends.blk --socket-path {{socket}} --blk-file {self.image}"

    def back_end(self) -> subprocess.Popen[bytes]:
        """Start the back-end."""
        argv = [word.replace("{socket}", self.disk) for word in self.serve.split()]
        program = subprocess.Popen(argv)
        self.owned.callback(program.wait)
        self.owned.callback(program.kill)
        return program

    def tap(self, *arguments: str) -> Run:
        """Start a tap; returns when it listens."""
        pair = ("--listen", self.tapped, "--connect", self.disk)
        run = Run(self.folder / "tap.log", ["tap", *pair, *arguments])
        self.owned.callback(run.close)
        run.await_line("listening at")
        return run

    def attach(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a VM on the tap's socket to its end."""
        argv = [*EMU, "attach", "--blk", self.tapped, "--for", "0.3s", *arguments]
        return subprocess.run(
            argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
        )


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with contextlib.ExitStack() as owned:
        yield Rig(tmp_path, owned)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_vm_on_a_tapped_disk(rig: Rig, signum: int) -> None:
    """One VM after the other; the tap ends in one line."""
    rig.back_end()
    text_file, json_file = rig.folder / "tap.text", rig.folder / "tap.json"
    run = rig.tap("--text", str(text_file), "--json", str(json_file))
    done = rig.attach()
    assert done.returncode == 0, done.stderr
    assert "requests" in done.stderr
    run.process.send_signal(signum)
    ended = run.end()
    assert ended.status == 0
    text, objects = text_file.read_text(), json_file.read_text().splitlines()
    for name in ("GET_FEATURES", "SET_MEM_TABLE", "SET_VRING_KICK", "GET_VRING_BASE"):
        assert f" VHOST_USER_{name} " in text
    events = [json.loads(line) for line in objects]
    due = [event for event in events if event.get("reply_due")]
    replies = [event for event in events if event["event"] == "reply"]
    assert len(due) == len(replies)
    assert all(reply["latency_ns"] > 0 for reply in replies)
    assert not [event for event in events if "error" in event]
    assert ended.last.startswith(f"ended by {signal.Signals(signum).name}: 1 connection, ")
    assert ended.err.splitlines()[0].startswith("tap: listening at ")
    assert "stop of 1 device, 1 ring: " in ended.err
    assert {event["event"] for event in events} >= {"stop", "start"}
    assert not os.path.lexists(rig.tapped)


def test_the_trace_of_a_vm(rig: Rig) -> None:
    """Its spans do not overlap on a track, and add up to the rows of stops."""
    rig.back_end()
    trace, log = rig.folder / "trace.json", rig.folder / "log.json"
    run = rig.tap("--trace", str(trace), "--json", str(log))
    assert rig.attach().returncode == 0
    run.interrupt()
    assert run.end().status == 0
    events = json.loads(trace.read_text())
    assert {event["ph"] for event in events} == {"M", "X", "i"}
    ends: dict[tuple[int, int], float] = {}
    spans = [event for event in events if event["ph"] == "X"]
    for span in sorted(spans, key=lambda span: float(span["ts"])):
        track = span["pid"], span["tid"]
        assert ends.get(track, 0) <= span["ts"] + 0.001
        ends[track] = span["ts"] + span["dur"]
    stops = [e for line in log.open() if (e := json.loads(line))["event"] == "stop"]
    rows = [row for stop in stops for row in stop["rows"] if row["row"] == "get vring base"]
    replies = [span["dur"] for span in spans if span["name"] == "GET_VRING_BASE"]
    assert sum(replies) * 1000 == pytest.approx(sum(row["replies_ns"] for row in rows))


@pytest.mark.slow
def test_a_report_of_what_a_tap_saw(rig: Rig) -> None:
    """The page that --report writes at the end is the one of the log."""
    rig.back_end()
    page, log = rig.folder / "tap.html", rig.folder / "tap.json"
    run = rig.tap("--report", str(page), "--json", str(log))
    assert rig.attach().returncode == 0
    run.interrupt()
    assert run.end().status == 0
    text = page.read_text("utf-8")
    assert "get vring base" in text
    assert f"{rig.tapped} to {rig.disk}" in text
    again = rig.folder / "again.html"
    done = subprocess.run(
        [*EMU, "report", str(log), "--report", str(again)], timeout=PROGRAM_TIMEOUT, check=False
    )
    assert done.returncode == 0
    section = text[: text.index("<h2>How it was made")]
    assert again.read_text("utf-8").startswith(section)


def test_a_back_end_that_the_tap_starts(rig: Rig) -> None:
    """It is started, waited for, and ended."""
    run = rig.tap("--exec", rig.serve)
    assert rig.attach().returncode == 0
    run.interrupt()
    assert run.end().status == 0
    assert not os.path.lexists(rig.disk)


def test_the_end_of_that_back_end_is_the_taps(rig: Rig) -> None:
    run = rig.tap("--exec", "sh -c 'echo why; exit 3' {socket}")
    ended = run.end()
    assert ended.status == 1
    assert ended.last.endswith("--exec of tap ended with status 3: why")


def test_a_back_end_that_is_killed_and_comes_back(rig: Rig) -> None:
    """The VM sees a plain disconnect, and connects again through the same tap."""
    program = rig.back_end()
    rig.tap()
    argv = ["attach", "--blk", rig.tapped, "--load", "light"]
    vm = Run(rig.folder / "vm.log", argv)
    rig.owned.callback(vm.close)
    vm.await_line("running")
    program.kill()
    program.wait(TIMEOUT)
    vm.await_line("blk0")
    rig.back_end()
    vm.await_line("again")
    vm.interrupt()
    assert vm.end().status == 0


def test_it_ends_after_a_time(rig: Rig) -> None:
    ended = rig.tap("--for", "0.1s").end()
    assert ended.status == 0
    assert ended.last == "ended after 0.1 s: 0 connections, 0 messages"


def test_quiet_prints_nothing(rig: Rig) -> None:
    argv = ["tap", "--listen", rig.tapped, "--connect", rig.disk, "--for", "0.1s", "-q"]
    run = Run(rig.folder / "tap.log", argv)
    rig.owned.callback(run.close)
    assert run.end() == (0, "", "")


def test_the_dissector_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    tap.main(["--dissector"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("-- Wireshark dissector")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "nothing to tap"),
        (("--listen", "a", "--connect", "b", "--wait", "long"), "--wait 'long' is not a duration"),
        (("--listen", "a", "--connect", "b", "--for", "1"), "--for '1' is not a duration"),
        (("--listen", "a", "--connect", "b", "--text", "--json"), "cannot write to the same file"),
        (("--listen", "a", "--connect", "b", "--last", "5"), "--last needs a log"),
        (("--listen", "a", "--connect", "b", "--dump-on", "end"), "--dump-on needs --last N"),
        (("--listen", "a", "--connect", "b", "--exec", "x"), "--exec: write {socket} where"),
        (("--listen", "a", "--connect", "b", "--exec", "'"), '--exec "\'": No closing quotation'),
    ],
)
def test_options_that_make_no_tap_are_refused(arguments: tuple[str, ...], text: str) -> None:
    """Before a socket is made."""
    with pytest.raises(OptionError, match=text):
        tap.main(list(arguments), standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize("area", ["framing", "channel", "pipelining", "memory"])
def test_the_conformance_suite_sees_no_tap(rig: Rig, area: str) -> None:
    """Also where it sends pieces of messages, and descriptors of the wrong number or kind."""
    rig.back_end()
    run = rig.tap()
    argv = [*EMU, "conform", "back-end", "--socket", rig.tapped, "--device", "blk"]
    done = subprocess.run(
        [*argv, "--only", area],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    run.interrupt()
    assert run.end().status == 0


class Monitor:
    """QMP of a QEMU."""

    def __init__(self, path: Path) -> None:
        self._sock = connect(str(path), "qmp", TIMEOUT)
        self._stream = self._sock.makefile("rw")
        self._stream.readline()
        self.execute("qmp_capabilities")

    def execute(self, command: str) -> dict[str, Any]:
        """Execute a command; returns its result."""
        self._stream.write(json.dumps({"execute": command}) + "\n")
        self._stream.flush()
        while "return" not in (answer := json.loads(self._stream.readline())):
            assert "error" not in answer, answer
        result: dict[str, Any] = answer["return"]
        return result

    def close(self) -> None:
        """Disconnect."""
        self._stream.close()
        self._sock.close()


@pytest.mark.peer
def test_qemu_with_disks_of_qemu_storage_daemon(tmp_path: Path, owned: ExitStack) -> None:
    """It boots from them as far as it can, stops and continues; each is a row of the JSON log."""
    daemon = need("qemu-storage-daemon", "qemu-system-common")
    qemu = need("qemu-system-x86_64", "qemu-system-x86")

    def start(*argv: str) -> subprocess.Popen[bytes]:
        program = subprocess.Popen(argv)
        owned.callback(program.wait)
        owned.callback(program.kill)
        return program

    pairs, devices = [], []
    for name in ("disk0", "disk1"):
        image, end, near = (tmp_path / f"{name}.{kind}" for kind in ("img", "end", "sock"))
        with image.open("wb") as file:
            file.truncate(1 << 20)
        export = f"type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path={end}"
        start(
            daemon,
            f"--blockdev=driver=file,node-name=f,filename={image},locking=off",
            "--blockdev=driver=raw,node-name=d,file=f",
            f"--export={export},num-queues=2,writable=on",
        )
        pairs += ["--pair", f"{near}:{end}"]
        devices += ["-chardev", f"socket,id={name},path={near}"]
        disk = f"vhost-user-blk-pci,chardev={name},num-queues=2,bootindex={name[-1]}"
        devices += ["-device", disk]
    log = tmp_path / "log.json"
    tapped = Run(tmp_path / "tap.log", ["tap", *pairs, "--json", str(log)])
    owned.callback(tapped.close)
    tapped.await_line("disk1: listening at")
    qmp = tmp_path / "qmp"
    vm = start(
        qemu, "-machine", "q35,memory-backend=m", "-m", "128M", "-accel", "tcg", "-nodefaults",
        "-object", "memory-backend-memfd,id=m,size=128M,share=on", "-display", "none",
        *devices, "-qmp", f"unix:{qmp},server=on,wait=off",
    )  # fmt: skip
    wait_until(qmp.is_socket, "QEMU serves QMP")

    def events(kind: str) -> list[dict[str, Any]]:
        lines = log.read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["event"] == kind]

    wait_until(lambda: events("start"), "the firmware starts the disks' rings")
    monitor = Monitor(qmp)
    for _ in range(2):
        monitor.execute("stop")
        monitor.execute("cont")
    monitor.execute("quit")
    vm.wait(TIMEOUT)
    monitor.close()
    tapped.interrupt()
    assert tapped.end().status == 0
    stops = events("stop")
    assert len(stops) >= 2
    assert {row["row"] for row in stops[0]["rows"]} >= {"get vring base"}
    messages = events("request") + events("reply")
    assert not [event for event in messages if "violations" in event]
    assert len(events("connected")) == len(events("disconnected")) == 2


def test_messages_do_not_wait_for_who_reads_standard_error(tmp_path: Path) -> None:
    """Such as a pager, or a terminal on which Ctrl-S was pressed."""
    sides, log = Sides(tmp_path), tmp_path / "log"
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    pair = ("--listen", sides.pair.listen, "--connect", sides.pair.connect)
    argv = [*EMU, "tap", *pair, "--json", str(log)]
    with contextlib.ExitStack() as stack:
        program = subprocess.Popen(argv, stderr=write)
        for clean_up in (program.wait, program.terminate, sides.listener.close):
            stack.callback(clean_up)
        for fd in (read, write):
            stack.callback(os.close, fd)
        printed = b""
        while b"listening" not in printed:
            printed += os.read(read, 4096)
        front, back = sides.connected()
        stack.enter_context(front)
        stack.enter_context(back)
        fill(write)
        unknown = HEADER.pack(99, VERSION, 0)
        front.send(unknown)
        assert back.recv(100) == unknown
        wait_until(lambda: "VU-F-0104" in log.read_text(), "the violation in the log")
        front.send(unknown)
        assert back.recv(100) == unknown


def fill(pipe: int) -> None:
    """Write to a pipe what it takes; its other writers wait from now on."""
    # Opened again, so that only this descriptor does not block.
    own = os.open(f"/proc/self/fd/{pipe}", os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(own, b"x")
    os.close(own)


def test_a_log_on_a_full_disk_fails_the_command(rig: Rig) -> None:
    """At its end: it has forwarded all the same."""
    rig.back_end()
    run = rig.tap("--text", "/dev/full")
    assert rig.attach().returncode == 0
    run.interrupt()
    ended = run.end()
    assert ended.status == 1
    assert "emu: --text /dev/full: No space left on device: the log is incomplete" in ended.last
