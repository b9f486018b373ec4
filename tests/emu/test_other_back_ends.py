"""`emu` on back-ends that the user names: commands that start them, and sockets that listen."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.config.backend_commands import BackEndCommand
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import ProgramError
from emu.orchestrator.backend_processes import BackendProcesses
from emu.orchestrator.run_directory import RunDirectory
from emu.orchestrator.signals import SignalWatcher
from tests.emu.fake_runs import machine_plan, no_leftovers
from tests.emu.test_cli import EMU, emu
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import running, wait_until
from vhost_user.channel import connect
from vhost_user.unix_socket import is_listening

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import ExitStack

SHAPE = ("--net", "0", "--blk", "2x2", "--vcpus", "2", "--memory", "256M", "--accel", "soft")
MIGRATE = ("migrate", *SHAPE, "--strategy", "qemu-2021,prewired")
PYTHON = shlex.quote(sys.executable)
PROGRAM = f"{PYTHON} -m backends.blk --num-queues {{queues}}"
TOO_FEW = f"{PYTHON} -m backends.blk --num-queues 1"
EACH = f"{PROGRAM} --socket-path {{socket}} --blk-file {{image}}"
ALL = f"{PROGRAM} --socket-path={{sockets}} --blk-file={{image}}"
UNSHARE = "unshare --net" if os.geteuid() == 0 else "unshare --map-root-user --net"
IMAGE_BYTES = 64 << 20
DISKS = VmSpec(2, 256 << 20, (DeviceGroup("blk", 2, 2),))


def daemon(command: str) -> str:
    """The command such that its program goes to the background, as with --daemonize."""
    code = (
        "import subprocess, sys; "
        "p = subprocess.Popen(sys.argv[2:], start_new_session=True); "
        "open(sys.argv[1], 'w').write(str(p.pid))"
    )
    return f"{PYTHON} -c {shlex.quote(code)} {{pid_file}} {command}"


@pytest.mark.parametrize(
    "command",
    [*(pytest.param(each, marks=pytest.mark.slow) for each in (EACH, ALL)), daemon(EACH)],
    ids=["each", "all", "daemon"],
)
def test_a_vm_migrates_between_programs_of_the_users_commands(command: str, tmp_path: Path) -> None:
    """Back and forth; the report has the commands, and says what proves that nothing was lost."""
    out = tmp_path / "out.json"
    with no_leftovers():
        done = emu(*MIGRATE, "--blk-backend", command, "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert "lost 0, duplicated 0, corrupted 0" in done.stdout
    proof = "proof: the guest's request log, all blocks read back by the guest, the disk images"
    assert proof in done.stdout
    document = json.loads(out.read_text())
    assert list(document["back_ends"]) == ["blk"]
    assert document["back_ends"]["blk"].startswith(PYTHON)
    assert [run["outcome"] for run in document["runs"]] == ["completed", "completed"]
    assert all(run["integrity"]["requests"] > 0 for run in document["runs"])


def test_a_vm_migrates_between_sockets_that_listen(tmp_path: Path, owned: ExitStack) -> None:
    """The programs serve the next front-end afterwards; the disks are the user's."""
    sockets: dict[str, list[str]] = {"src": [], "dst": []}
    programs = []
    for number in range(2):
        image = tmp_path / f"{number}.img"
        with image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        for side, paths in sockets.items():
            path = tmp_path / f"{side}{number}"
            argv = [sys.executable, "-m", "backends.blk", "--num-queues", "2"]
            program = owned.enter_context(
                subprocess.Popen([*argv, "--socket-path", str(path), "--blk-file", str(image)])
            )
            owned.callback(program.terminate)
            programs.append(program)
            paths.append(str(path))
    listening = [*sockets["src"], *sockets["dst"]]
    wait_until(lambda: all(map(is_listening, listening)), "they listen")
    options = [
        word
        for side, paths in sockets.items()
        for path in paths
        for word in (f"--{side}-blk", path)
    ]
    for _ in range(2):
        done = emu(*MIGRATE, *options, "--scratch")
        assert done.returncode == 0, done.stderr
        assert "proof: the guest's request log, all blocks read back by the guest\n" in done.stdout
    assert all(program.poll() is None for program in programs)


def test_a_vm_goes_to_another_command_without_images_of_its_own(
    tmp_path: Path, owned: ExitStack
) -> None:
    """The disks of the sockets are the user's, on both sides."""
    image, stream = tmp_path / "disk.img", f"unix:{tmp_path / 'stream'}"
    with image.open("wb") as file:
        file.truncate(IMAGE_BYTES)
    sockets = [str(tmp_path / side) for side in ("src", "dst")]
    for path in sockets:
        argv = [sys.executable, "-m", "backends.blk", "--num-queues", "1"]
        program = owned.enter_context(
            subprocess.Popen([*argv, "--socket-path", path, "--blk-file", str(image)])
        )
        owned.callback(program.terminate)
    wait_until(lambda: all(map(is_listening, sockets)), "they listen")
    destination = owned.enter_context(
        subprocess.Popen(
            [*EMU, "attach", "--blk", sockets[1], "--memory", "256M", "--incoming", stream],
            stderr=subprocess.PIPE,
            text=True,
        )
    )
    owned.callback(destination.kill)
    wait_until(lambda: is_listening(stream.removeprefix("unix:")), "it waits for a VM")
    shape = ("--net", "0", "--blk", "1x1", "--vcpus", "2", "--memory", "256M", "--accel", "soft")
    done = emu("migrate", *shape, "--to", stream, "--src-blk", sockets[0], "--scratch")
    assert done.returncode == 0, done.stderr
    assert "integrity: the destination checks the guest's request log" in done.stdout
    destination.send_signal(signal.SIGINT)
    _, errors = destination.communicate(timeout=PROGRAM_TIMEOUT)
    assert destination.returncode == 0, errors


@pytest.mark.slow
def test_a_run_has_the_guests_counters_only(tmp_path: Path) -> None:
    """Another program has none that could be read."""
    out = tmp_path / "out.json"
    done = emu("run", *SHAPE, "--for", "1s", "--blk-backend", EACH, "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert "proof: the guest's request log" in done.stdout
    totals = json.loads(out.read_text())["totals"]["blk"]
    assert totals["requests"] > 0
    assert "kicks" not in totals


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/none/serve {socket} {image}", "--blk-backend /none/serve: No such file or directory"),
        (
            f"{PYTHON} -c 'import sys; sys.exit(\"no disk here\")' {{socket}} {{image}}",
            "ended with status 1: no disk here",
        ),
        pytest.param(
            f"{TOO_FEW} --socket-path {{socket}} --blk-file {{image}}",
            "has too few rings: 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            f"sh -c 'exec {PYTHON} -m backends.rng --socket-path $0' {{socket}} {{image}}",
            "blk0",
            marks=pytest.mark.slow,
        ),
    ],
    ids=["missing", "fails", "too few rings", "another device"],
)
def test_a_back_end_that_does_not_do_is_one_line(command: str, expected: str) -> None:
    """With the program's own words, where it has any."""
    with no_leftovers():
        done = emu(*MIGRATE, "--blk-backend", command)
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if line.startswith("emu: ")]
    assert len(errors) == 1, done.stderr
    assert expected in errors[0]
    assert "Traceback" not in done.stderr


def test_a_program_that_never_listens_is_named() -> None:
    """With the last line of its output; it is ended."""
    code = "import time; print('warming up', flush=True); time.sleep(600)"
    text = f"{PYTHON} -c {shlex.quote(code)} {{sockets}} {{image}}"
    plan = machine_plan(spec=DISKS, back_ends={"blk": BackEndCommand.parse("blk", text)})
    with no_leftovers() as pids, RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", plan, directory, watcher)
        try:
            backends.start()
            pids.extend(backends.pids)
            log = directory.log("A", "blk")
            wait_until(lambda: "warming" in log.read_text(), "it prints")
            with pytest.raises(ProgramError) as late:
                backends.await_ready(timeout=0.5)
        finally:
            backends.stop()
    head, _, why = str(late.value).partition(": ")
    assert head.endswith(f"({sys.executable}) does not listen on the socket of blk0 after 0.5 s")
    # It may still be on its way from the print to the sleep.
    assert re.fullmatch(r"its state is .+, the last line of its output is: warming up", why)


def test_a_program_that_listens_after_the_deadline_was_slept_through_is_ready() -> None:
    """The last look comes after the deadline: this process may have been stopped until then."""
    plan = machine_plan(spec=DISKS, back_ends={"blk": BackEndCommand.parse("blk", ALL)})
    with no_leftovers() as pids, RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", plan, directory, watcher)
        try:
            backends.start()
            pids.extend(backends.pids)
            wait = watcher.wait
            paths = backends.sockets.values()

            def stopped(fds: Iterable[int], timeout: float) -> list[int]:
                wait_until(lambda: all(map(is_listening, paths)), "the program listens")
                return wait(fds, timeout)

            watcher.wait = stopped  # type: ignore[method-assign]
            backends.await_ready(timeout=0.0)
        finally:
            backends.stop()


def test_a_program_in_another_network_namespace_is_ready() -> None:
    """Its sockets are not in this namespace's list, and can be connected to."""
    apart = f"{UNSHARE} {ALL}"
    if subprocess.run([*shlex.split(UNSHARE), "true"], capture_output=True, check=False).returncode:
        pytest.skip("no network namespace can be made here")
    plan = machine_plan(spec=DISKS, back_ends={"blk": BackEndCommand.parse("blk", apart)})
    with no_leftovers() as pids, RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", plan, directory, watcher)
        try:
            backends.start()
            pids.extend(backends.pids)
            backends.await_ready()
            for path in backends.sockets.values():
                connect(path, "the device", TIMEOUT).close()
        finally:
            backends.stop()


def test_a_daemon_that_ends_during_the_run_fails_it() -> None:
    """Although it is no child."""
    plan = machine_plan(spec=DISKS, back_ends={"blk": BackEndCommand.parse("blk", daemon(ALL))})
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", plan, directory, watcher)
        try:
            backends.start()
            backends.await_ready()
            pid = int(Path(directory.path / "A-blk.pid").read_text())
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(ProgramError, match=r"back-end blk of side A .* ended"):
                watcher.pause(TIMEOUT)
        finally:
            backends.stop()


def fails_to_start(text: str, error: str) -> None:
    """Start the back-ends by a command; it is one error, and no process is left."""
    plan = machine_plan(spec=DISKS, back_ends={"blk": BackEndCommand.parse("blk", text)})
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", plan, directory, watcher)
        try:
            backends.start()
            with pytest.raises(ProgramError, match=error):
                backends.await_ready(10 * TIMEOUT)
        finally:
            backends.stop()


def test_a_program_that_goes_to_the_background_without_a_word_is_ended(tmp_path: Path) -> None:
    """The error says how it can be known; its process does not stay."""
    pid = tmp_path / "pid"
    script = f"{PROGRAM.format(queues=2)} --socket-path $0 --blk-file $1 & echo $! > {pid}"
    text = f"sh -c {shlex.quote(script)}"
    with no_leftovers():
        done = emu("run", *SHAPE, "--for", "1s", "--blk-backend", f"{text} {{socket}} {{image}}")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "emu: back-end blk0 of side A (sh) ended with status 0: one that goes to the background "
        "has to write its process id to {pid_file}"
    )
    with suppress(psutil.NoSuchProcess):
        left = psutil.Process(int(pid.read_text()))
        wait_until(lambda: not running([left]), "its process has ended")


def test_a_daemon_that_fails_at_its_start_is_one_error() -> None:
    """Before it has written its process id."""
    text = (
        f"{PYTHON} -c 'import sys; sys.exit(\"no disk here\")' {{sockets}} {{image}} {{pid_file}}"
    )
    fails_to_start(text, "ended with status 1: no disk here")


@pytest.mark.parametrize("content", ["\\xff", "9" * 30, "many", "0"])
def test_a_process_id_file_with_something_else_is_one_error(content: str) -> None:
    """Whatever the program has written."""
    code = f"open('{{pid_file}}', 'wb').write(b'{content}')"
    fails_to_start(
        f"{PYTHON} -c {shlex.quote(code)} {{sockets}} {{image}}", "its process id file: "
    )


def test_programs_in_the_background_end_if_another_one_fails() -> None:
    """Also those that were not awaited yet."""
    code = "import sys; sys.exit('no disk here') if {index} == 0 else 0"
    first = f"{PYTHON} -c {shlex.quote(code)}"
    text = f"sh -c {shlex.quote(f'{first} && exec ' + daemon(EACH))}"
    plan = machine_plan(spec=DISKS, back_ends={"blk": BackEndCommand.parse("blk", text)})
    with no_leftovers(), RunDirectory() as directory, SignalWatcher() as watcher:
        backends = BackendProcesses("A", plan, directory, watcher)
        path = directory.path / "A-blk1.pid"
        try:
            backends.start()
            wait_until(lambda: path.exists() and path.read_text(), "the other one has started")
            process = psutil.Process(int(path.read_text()))
            with pytest.raises(ProgramError, match="no disk here"):
                backends.await_ready(10 * TIMEOUT)
        finally:
            backends.stop()
        wait_until(lambda: not running([process]), "it has ended")
