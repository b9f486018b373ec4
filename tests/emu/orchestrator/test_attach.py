"""`emu attach` on running back-end programs."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.config.device_kinds import KINDS
from emu.errors import CommandError
from emu.orchestrator.signals import SignalWatcher
from emu.qmp.client import MonitorClient
from tests import slow
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import wait_until
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMU = (sys.executable, "-m", "emu.cli")


def attach(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [*EMU, "attach", *arguments],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )


class Programs:
    """The back-ends of a test, and the VM that uses them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owned = contextlib.ExitStack()

    def start(
        self, *argv: str, stderr: int | None = None, pass_fds: tuple[int, ...] = ()
    ) -> subprocess.Popen[str]:
        """Start a program; `close` ends it."""
        process = subprocess.Popen(
            [sys.executable, "-m", *argv], text=True, stderr=stderr, pass_fds=pass_fds
        )
        self._owned.callback(process.communicate)
        self._owned.callback(process.kill)
        return process

    def blk(self, name: str = "blk.sock", rings: int = 2) -> tuple[str, subprocess.Popen[str]]:
        """Start the back-end of a disk; return its socket and its process."""
        path = self._folder / name
        options = ("--num-queues", str(rings), *self._extras("blk"))
        return str(path), self._listening(path, "backends.blk", *options)

    def on(self, connection: socket.socket, kind: str) -> subprocess.Popen[str]:
        """Start a back-end that serves an open connection, and ends with it."""
        fd = connection.fileno()
        options = ("--fd", str(fd), *self._extras(kind))
        return self.start(KINDS[kind].back_end, *options, pass_fds=(fd,))

    def _extras(self, kind: str) -> tuple[str, ...]:
        """The further options of a back-end of that kind."""
        if kind != "blk":
            return ()
        image = self._folder / "disk.img"
        if not image.exists():  # another back-end of the same disk serves what was written
            with image.open("wb") as file:
                file.truncate(16 << 20)
        return ("--blk-file", str(image))

    def net(self, rings: int = 2) -> tuple[str, subprocess.Popen[str]]:
        """Start the back-end of a NIC, which loops frames back; return its socket and process."""
        path = self._folder / "net.sock"
        return str(path), self._listening(path, "backends.net", "--num-queues", str(rings))

    def _listening(self, path: Path, *argv: str) -> subprocess.Popen[str]:
        program = self.start(*argv, "--socket-path", str(path))

        def listens() -> bool:
            assert program.poll() is None
            return path.is_socket()

        wait_until(listens, "it listens")
        return program

    def vm(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `emu attach`; the VM runs when this returns."""
        process = self.start("emu.cli", "attach", *arguments, stderr=subprocess.PIPE)
        assert line(process).startswith("running (soft): ")
        return process

    def close(self) -> None:
        """End all programs."""
        self._owned.close()


def line(process: subprocess.Popen[str]) -> str:
    """The next line on its stderr."""
    assert process.stderr is not None
    assert readable([process.stderr], TIMEOUT), "it says nothing"
    return process.stderr.readline().rstrip()


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Programs]:
    """The programs of a test."""
    made = Programs(tmp_path)
    yield made
    made.close()


@contextlib.contextmanager
def monitor(path: Path) -> Iterator[MonitorClient]:
    """A client of the VM's monitor."""
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    with SignalWatcher() as watcher:
        client = MonitorClient(sock, "VM", watcher)
        client.negotiate(TIMEOUT)
        yield client
        client.close()


def execute(client: MonitorClient, command: str, **arguments: object) -> dict[str, object]:
    """Execute a command."""
    given = {name.replace("_", "-"): value for name, value in arguments.items()}
    return client.execute(command, given, timeout=TIMEOUT)


def counters(client: MonitorClient) -> tuple[int, int]:
    """The counters of requests and packets."""
    classes = client.execute("x-stats", timeout=TIMEOUT)["classes"]
    return classes["blk"]["requests"], classes["net"]["packets"]


def await_requests(client: MonitorClient) -> None:
    """Return when more requests and packets have been completed."""
    requests, packets = counters(client)

    def more() -> bool:
        now = counters(client)
        return now[0] > requests and now[1] > packets

    wait_until(more, f"there are more than {requests} requests and {packets} packets")


def test_a_run_with_a_duration(programs: Programs) -> None:
    """It prints the VM and its back-ends, and totals at the end."""
    blk, _ = programs.blk()
    net, _ = programs.net()
    done = attach("--blk", blk, "--net", net, "--for", "300ms")
    assert (done.returncode, done.stdout) == (0, "")
    running, summary = done.stderr.splitlines()
    assert running == f"running (soft): net0 on {net}, blk0 on {blk}"
    assert summary.startswith("net: ")
    assert "blk: 0 requests" not in summary
    assert ": 0 packets" not in summary


def test_quiet_prints_only_errors(programs: Programs) -> None:
    """The output of a successful run is empty."""
    blk, _ = programs.blk()
    done = attach("--blk", blk, "--for", "100ms", "-q")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_monitor_commands(programs: Programs, tmp_path: Path) -> None:
    """The VM is stopped, continued, reset and measured, and completes requests after each."""
    blk, _ = programs.blk()
    net, _ = programs.net()
    path = tmp_path / "qmp"
    vm = programs.vm("--blk", blk, "--net", net, "--qmp", str(path))
    with monitor(path) as client:
        await_requests(client)
        execute(client, "stop")
        assert execute(client, "query-status")["status"] == "paused"
        assert counters(client) == counters(client)
        execute(client, "cont")
        await_requests(client)
        execute(client, "system_reset")
        await_requests(client)
        execute(client, "calc-dirty-rate", calc_time=1)
        with pytest.raises(CommandError, match="measured already"):
            execute(client, "calc-dirty-rate", calc_time=1)
        with pytest.raises(CommandError, match="the dirty rate is being measured: wait"):
            execute(client, "migrate", uri="unix:/none")
        wait_until(lambda: execute(client, "query-dirty-rate")["status"] != "measuring")
        rate = execute(client, "query-dirty-rate")
        assert rate["status"] == "measured"
        assert rate["calc-time"] == 1
        await_requests(client)
    # After a client has disconnected, the next one can connect.
    with monitor(path) as client:
        await_requests(client)
        execute(client, "quit")
        assert vm.wait(TIMEOUT) == 0
    assert line(vm).startswith("net: ")
    assert not path.exists()


@pytest.mark.parametrize(
    ("command", "text"),
    slow.after(
        1,
        [
            ("x-create", "has not been found"),
            ("x-release", "has not been found"),
            ("migrate-incoming", "was not started with --incoming defer"),
        ],
    ),
)
def test_internal_commands_are_refused(
    programs: Programs, tmp_path: Path, command: str, text: str
) -> None:
    """A client cannot create or release the VM."""
    blk, _ = programs.blk()
    programs.vm("--blk", blk, "--qmp", str(tmp_path / "qmp"))
    with monitor(tmp_path / "qmp") as client, pytest.raises(CommandError, match=text):
        execute(client, command)


def test_a_measurement_does_not_delay_the_end(programs: Programs, tmp_path: Path) -> None:
    """The VM also survives a client that disconnects during a measurement."""
    blk, _ = programs.blk()
    vm = programs.vm("--blk", blk, "--qmp", str(tmp_path / "qmp"))
    with monitor(tmp_path / "qmp") as client:
        execute(client, "calc-dirty-rate", calc_time=60)
    with monitor(tmp_path / "qmp") as client:
        assert execute(client, "query-dirty-rate")["status"] == "measuring"
        vm.send_signal(signal.SIGINT)
        assert vm.wait(TIMEOUT) == 0


@pytest.mark.parametrize("signum", slow.all_but({signal.SIGINT}, [signal.SIGINT, signal.SIGTERM]))
def test_a_signal_stops_the_rings(programs: Programs, tmp_path: Path, signum: int) -> None:
    """The back-end serves the next VM."""
    blk, back_end = programs.blk()
    path = tmp_path / "qmp"
    vm = programs.vm("--blk", blk, "--qmp", str(path))
    vm.send_signal(signum)
    assert vm.wait(TIMEOUT) == 0
    assert line(vm).startswith("blk: ")
    assert not path.exists()
    assert back_end.poll() is None
    assert attach("--blk", blk, "--scratch", "--for", "100ms").returncode == 0


def test_a_vm_without_a_back_end_is_not_reset(programs: Programs, tmp_path: Path) -> None:
    """The reset is refused until the back-end has been reconnected."""
    blk, back_end = programs.blk()
    net, _ = programs.net()
    path = tmp_path / "qmp"
    vm = programs.vm("--blk", blk, "--net", net, "--qmp", str(path))
    with monitor(path) as client:
        back_end.kill()
        assert line(vm) == "blk0: its back-end has disconnected"
        with pytest.raises(CommandError, match="without a back-end: blk0"):
            execute(client, "system_reset")
        programs.blk()
        assert line(vm) == "blk0: has a back-end again"
        await_requests(client)
        execute(client, "system_reset")
        await_requests(client)


def test_a_back_end_that_ends_is_reported(programs: Programs) -> None:
    """At once, and by the exit status."""
    blk, back_end = programs.blk()
    vm = programs.vm("--blk", blk)
    back_end.kill()
    assert line(vm) == "blk0: its back-end has disconnected"
    vm.send_signal(signal.SIGINT)
    assert vm.wait(TIMEOUT) == 1
    rest = vm.stderr.read() if vm.stderr is not None else ""
    assert rest.splitlines()[-1].startswith("emu: blk0")


def test_the_device_is_reconnected_to_the_next_back_end(programs: Programs, tmp_path: Path) -> None:
    """Requests that the ended back-end had not completed complete once."""
    blk, back_end = programs.blk()
    net, _ = programs.net()
    path = tmp_path / "qmp"
    vm = programs.vm("--blk", blk, "--net", net, "--qmp", str(path))
    back_end.kill()
    assert line(vm) == "blk0: its back-end has disconnected"
    programs.blk()
    assert line(vm) == "blk0: has a back-end again"
    with monitor(path) as client:
        await_requests(client)
    vm.send_signal(signal.SIGINT)
    assert vm.wait(TIMEOUT) == 0


def test_ctrl_c_ends_the_wait_for_a_silent_back_end(tmp_path: Path) -> None:
    """At once."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        argv = [*EMU, "attach", "--blk", str(path), "--qmp", str(tmp_path / "qmp")]
        with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as vm:
            listener.settimeout(TIMEOUT)
            caller, _ = listener.accept()
            assert caller.recv(12)
            vm.send_signal(signal.SIGINT)
            _, errors = vm.communicate(timeout=PROGRAM_TIMEOUT)
            caller.close()
    assert (vm.returncode, errors) == (130, "emu: ended by SIGINT\n")
    assert not (tmp_path / "qmp").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    slow.after(
        4,
        [
            ((), 2, "--net PATH, --blk PATH, --rng PATH"),
            (("--blk", "s", "--for", "soon"), 2, "'soon' is not a duration"),
            (("--net", "s", "--rings", "3"), 2, "--rings 3: rings of NICs come in pairs"),
            (("--rng", "s", "--rings", "2"), 2, "--rings 2: entropy devices have 1 ring each"),
            (
                ("--blk", "s", "--blk", "s"),
                2,
                "s is given twice: each device needs its own back-end",
            ),
            (("--blk", "s", "--rng", "s"), 2, "s is given twice"),
            (("--blk", "s", "--rings", "0"), 2, "0 is not in the range"),
            (("--blk", "s", "--vcpus", "0"), 2, "0 vCPUs"),
            (("--blk", "s", "--memory", "1M"), 2, "at least 64M"),
            (("--blk", "s", "--memory", "much"), 2, "'much' is not a size"),
            (("--blk", "s", "--load", "much"), 2, "'much' is not one of"),
            (
                ("--blk", "s", "--qmp", "/no/such/qmp"),
                1,
                "--qmp /no/such/qmp: there is no directory /no/such",
            ),
            (("--blk", "/" + "x" * 120), 1, "107 bytes at most"),
        ],
    ),
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], status: int, text: str) -> None:
    """The line has advice."""
    done = attach(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr
    assert done.stderr.startswith("emu: ")
    assert done.stderr.count("\n") == 1


RINGS = pytest.mark.parametrize("rings", [(), ("--rings", "2")], ids=["offered", "given"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_back_end_may_serve_one_connection_only(
    programs: Programs, tmp_path: Path, kind: str
) -> None:
    """`emu attach` queries its offer, reads a disk and runs the VM on that connection."""
    path = tmp_path / "one.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(TIMEOUT)
        arguments = (f"--{kind}", str(path), "--for", "300ms")
        vm = programs.start("emu.cli", "attach", *arguments, stderr=subprocess.PIPE)
        connection, _ = listener.accept()
    with connection:
        back_end = programs.on(connection, kind)
    assert line(vm) == f"running (soft): {kind}0 on {path}"
    assert line(vm).startswith(f"{kind}: ")
    assert vm.wait(TIMEOUT) == 0
    assert back_end.wait(TIMEOUT) == 0


@RINGS
@pytest.mark.parametrize("kind", slow.all_but({"blk"}, ["blk", "net"]))
def test_what_is_not_a_socket_is_refused_at_once(
    kind: str, rings: tuple[str, ...], tmp_path: Path
) -> None:
    """Without waiting for a process that listens there."""
    file = tmp_path / "file"
    file.touch()
    for path in ("/etc/passwd", str(file), str(tmp_path)):
        done = attach(f"--{kind}", path, *rings)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.splitlines() == [f"emu: {kind}0: {path}: is not a socket"]


@RINGS
def test_a_wait_for_a_back_end_is_reported(
    programs: Programs, tmp_path: Path, rings: tuple[str, ...]
) -> None:
    """With the device and the path; the VM runs when the back-end listens."""
    path = tmp_path / "blk.sock"
    arguments = ("--blk", str(path), *rings)
    vm = programs.start("emu.cli", "attach", *arguments, stderr=subprocess.PIPE)
    assert line(vm) == f"blk0: waiting for a back-end at {path} (10 s)"
    programs.blk()
    assert line(vm).startswith("running (soft): ")
    vm.send_signal(signal.SIGINT)
    assert vm.wait(TIMEOUT) == 0


def test_the_wrong_back_end_is_one_line(programs: Programs) -> None:
    """The line names the missing feature."""
    blk, _ = programs.blk()
    net, _ = programs.net()
    for arguments, text in (
        (("--blk", net, "--rings", "1"), "blk0: the back-end does not offer CONFIG"),
        (("--blk", blk, "--rings", "9"), "too few rings: 2, and the device has 9"),
    ):
        done = attach(*arguments)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert text in done.stderr


def test_a_command_that_hangs_does_not_delay_the_end(programs: Programs, tmp_path: Path) -> None:
    """Its client waits for requests of a back-end that does not answer."""
    blk, back_end = programs.blk()
    vm = programs.vm("--blk", blk, "--qmp", str(tmp_path / "qmp"))
    with monitor(tmp_path / "qmp") as waiting, monitor(tmp_path / "qmp") as other:
        wait_until(lambda: execute(other, "x-stats")["classes"])
        back_end.send_signal(signal.SIGSTOP)
        waiting.submit("x-quiesce", {"timeout": 1e8})
        other.submit("quit")
        vm.wait(TIMEOUT)
