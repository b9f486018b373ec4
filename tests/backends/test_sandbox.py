"""The sandbox of the back-end programs: it is in force, and the programs serve in it."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from backends import landlock, sandbox
from tests.backends.programs import BLK, SERVE, fails, rig_at
from tests.backends.served import KINDS, Blk, Kind, program
from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_T_DISCARD,
    VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.backends.rig import Rig


def _reason() -> str:
    """Why this host has no seccomp filter, or an empty string."""
    try:
        sandbox._library()
    except sandbox.SandboxError as error:
        return str(error)
    return ""


needed = pytest.mark.skipif(bool(_reason()), reason=_reason())
#: What a program that has been taken over may try, as Python.
ATTEMPTS = {
    "read a file": "open('/etc/passwd')",
    "write a file": "open(FOLDER + '/there', 'r+')",
    "make a file": "open(FOLDER + '/new', 'x')",
    "open from a directory": "os.open('passwd', os.O_RDONLY, dir_fd=ETC)",
    "remove a file elsewhere": "os.unlink(FOLDER + '/there')",
    "rename": "os.rename(FOLDER + '/there', FOLDER + '/new')",
    "link": "os.link(FOLDER + '/there', FOLDER + '/new')",
    "make a directory": "os.mkdir(FOLDER + '/new')",
    "change a mode": "os.chmod(FOLDER + '/there', 0o777)",
    "change the mode of an open file": "os.fchmod(THERE, 0o777)",
    "execute": "os.execv('/bin/true', ['true'])",
    "execute an open file": "os.execve(TRUE, ['true'], {})",
    "start a process": "os.fork()",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "make a unix socket": "socket.socket(socket.AF_UNIX)",
    "make a TCP socket": "socket.socket(socket.AF_INET)",
    "connect": "SOCK.connect(FOLDER + '/there')",
    "bind": "SOCK.bind(FOLDER + '/new')",
    "signal another process": "os.kill(os.getppid(), 0)",
    "map code": "mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "turn memory into code": "call(LIBC.mprotect, LIBC.calloc(2, 4096) & -4096, 4096, 5)",
    "type into the terminal": "fcntl.ioctl(THERE, 0x5412, b'x')",
    "trace": "call(LIBC.ptrace, 16, os.getppid(), 0, 0)",
    "read another process's memory": "call(LIBC.process_vm_readv, os.getppid(), 0, 0, 0, 0, 0)",
    "mount": "call(LIBC.mount, b'none', b'/tmp', b'tmpfs', 0, 0)",
    "make a namespace": "call(LIBC.unshare, 0x10000000)",
    "make an io_uring": "call(LIBC.syscall, 425, 1, 0)",
    "open by another call": "call(LIBC.syscall, 437, -100, b'/etc/passwd', b'\\0' * 24, 24)",
    "take another's descriptor": "call(LIBC.syscall, 438, PARENT, 0, 0)",
}
#: What serving takes.
NEEDS = {
    "a thread": "thread = threading.Thread(target=print); thread.start(); thread.join()",
    "memory": "mmap.mmap(-1, 64 << 20)[1 << 20] = 1",
    "a memory file": "fd = os.memfd_create('m'); os.ftruncate(fd, 4096); mmap.mmap(fd, 4096)",
    "notifiers": "os.eventfd(0); select.epoll().register(os.pipe()[0]); SOCK.settimeout(1)",
    "open files": "os.pwrite(THERE, b'x', 0); os.fdatasync(THERE); os.ftruncate(THERE, 4096)",
    "a lock": "fcntl.flock(THERE, fcntl.LOCK_EX)",
    "metadata": "os.stat(FOLDER); os.lstat(FOLDER); os.fstatvfs(THERE)",
    "randomness and time": "os.urandom(8); time.sleep(0.001); time.localtime()",
    "the report of an error": "assert 'ZeroDivisionError' in report()",
    "abort": "signal.pthread_kill(threading.get_ident(), 0)",
}
SCRIPT = """
import ctypes, fcntl, json, mmap, os, pathlib, select, signal, socket, sys, threading, time
import traceback
from backends import sandbox

def report():
    try:
        1 // 0
    except ZeroDivisionError:
        return traceback.format_exc()

def call(function, *arguments):
    if function(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)) == -1:
        raise OSError(ctypes.get_errno(), "refused")

FOLDER = sys.argv[1]
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.calloc.restype = ctypes.c_long
ETC = os.open("/etc", os.O_RDONLY)
THERE = os.open(FOLDER + "/there", os.O_RDWR | os.O_CREAT)
TRUE = os.open("/bin/true", os.O_RDONLY)
PARENT = os.pidfd_open(os.getppid())
SOCK = socket.socket(socket.AF_UNIX)
codes = {name: compile(code, name, "exec") for name, code in json.load(sys.stdin).items()}
sandbox.confine([pathlib.Path(FOLDER, "sockets")])
results = {}
for name, code in codes.items():
    try:
        exec(code)
        results[name] = "done"
    except OSError as error:
        results[name] = type(error).__name__
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What came of each attempt, in one process in the sandbox."""
    folder = tmp_path_factory.mktemp("confined")
    (folder / "sockets").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder)],
        input=json.dumps({**ATTEMPTS, **NEEDS}),
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT,
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answer


@needed
@pytest.mark.parametrize("name", ATTEMPTS)
def test_it_refuses(name: str, results: dict[str, str]) -> None:
    assert results[name] == "PermissionError"


@needed
@pytest.mark.parametrize("name", NEEDS)
def test_it_permits(name: str, results: dict[str, str]) -> None:
    assert results[name] == "done"


FOREIGN = """
import ctypes, mmap, pathlib, sys
from backends import sandbox
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes.fromhex("b814000000cd80c3"))  # getpid of 32-bit x86: mov eax, 20; int 0x80; ret
getpid = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
sandbox.confine([pathlib.Path(sys.argv[1])])
getpid()
"""


@needed
@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code is that of x86")
def test_the_calls_of_another_architecture_end_the_process(tmp_path: Path) -> None:
    """By SIGSYS, or by SIGSEGV where the kernel does not have them at all."""
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, str(tmp_path)], timeout=PROGRAM_TIMEOUT, check=False
    )
    assert done.returncode in (-signal.SIGSYS, -signal.SIGSEGV)


# The programs

PLUGIN = """
import os, socket, subprocess
from backends.virtio_device import VirtioDevice

class Curious(VirtioDevice):
    def serve(self, ring, chain):
        attempts = (
            lambda: open("/etc/passwd").close(),
            lambda: subprocess.run(["true"]),
            lambda: socket.socket().close(),
        )
        for place, attempt in enumerate(attempts):
            chain.writable[0][place] = 0
            try:
                attempt()
            except OSError as error:
                chain.writable[0][place] = error.errno
        return 3
"""


@pytest.fixture
def plugin(tmp_path: Path) -> list[str]:
    path = tmp_path / "curious.py"
    path.write_text(PLUGIN)
    return [*SERVE, "--plugin", str(path)]


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


def confinement(pid: int) -> set[tuple[str, str]]:
    """The seccomp mode and no_new_privs of all threads of a process."""
    found = set()
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        with suppress(OSError):  # it has ended
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
            found.add((fields["Seccomp"].strip(), fields["NoNewPrivs"].strip()))
    return found


CONFINED, FREE = {("2", "1")}, {("0", "0")}


@needed
def test_every_thread_of_a_program_is_in_it(kind: Kind, tmp_path: Path) -> None:
    """And the program removes its socket all the same."""
    path = tmp_path / "s"
    with program(kind.arguments(tmp_path), "--socket-path", str(path), "--sandbox") as process:
        with rig_at(str(path), kind.rings) as rig:
            rig.start()
            kind.prepare(rig)
            kind.work(rig)
            assert confinement(process.pid) == CONFINED
        process.terminate()
        assert process.communicate(timeout=PROGRAM_TIMEOUT)[1] == b""
    assert path.exists() == (not landlock.version())


@needed
@pytest.mark.parametrize(
    ("option", "expected"), [([], CONFINED), (["--no-sandbox"], FREE)], ids=["default", "no"]
)
def test_the_default_of_the_programs(
    kind: Kind, option: list[str], expected: object, tmp_path: Path
) -> None:
    arguments = [*kind.arguments(tmp_path), *option]
    with program(arguments, "--socket-path", str(tmp_path / "s")) as process:
        assert confinement(process.pid) == expected


def curiosity(rig: Rig) -> list[int]:
    rig.start()
    gpa, answer = rig.alloc(3)
    rig.rings[0].add([], [(gpa, 3)])
    assert rig.rings[0].wait().written == 3
    return list(answer[:3])


@needed
@pytest.mark.parametrize(("option", "errors"), [([], [0, 0, 0]), (["--sandbox"], [1, 1, 1])])
def test_a_plugin_is_in_it_on_request_only(
    plugin: list[str], option: list[str], errors: list[int], tmp_path: Path
) -> None:
    """Its code is the user's own, and may open files and start programs without."""
    path = str(tmp_path / "s")
    with program([*plugin, *option], "--socket-path", path) as process, rig_at(path, 1) as rig:
        assert curiosity(rig) == errors
        assert confinement(process.pid) == (CONFINED if option else FREE)


def request(rig: Rig, ring: int, kind: int, data: bytes) -> int:
    header_gpa, header = rig.alloc(16 + len(data))
    header[:] = REQUEST_HEADER.pack(kind, 0, 0 if kind != VIRTIO_BLK_T_OUT else 8) + data
    gpa, status = rig.alloc(1)
    status[0] = 0xFF
    rig.rings[ring].add([(header_gpa, 16 + len(data))], [(gpa, 1)])
    rig.rings[ring].wait()
    return int(status[0])


@needed
def test_a_disk_under_load_for_one_front_end_after_the_other(tmp_path: Path) -> None:
    """Its threads for slow calls are started in the sandbox, with the first of these calls."""
    disk, path = Blk(), str(tmp_path / "s")
    segment = (16).to_bytes(8, "little") + (8).to_bytes(4, "little") + bytes(4)
    requests = (
        *((VIRTIO_BLK_T_OUT, bytes(512)), (VIRTIO_BLK_T_FLUSH, b"")),
        *((VIRTIO_BLK_T_DISCARD, segment), (VIRTIO_BLK_T_WRITE_ZEROES, segment)),
    )
    with program(disk.arguments(tmp_path), "--socket-path", path) as process:
        for _ in range(3):
            with rig_at(path, disk.rings) as rig:
                rig.start()
                log = rig.set_log()
                for sector in range(60):
                    disk.work(rig, 64 + sector)
                for kind, data in requests:
                    assert request(rig, 2, kind, data) == VIRTIO_BLK_S_OK
                assert rig.rings[2].stop() == 4
                log.close()
        assert confinement(process.pid) == CONFINED
        assert psutil.Process(process.pid).num_threads() > 2


@pytest.mark.slow
@needed
def test_the_back_ends_of_a_migration_are_in_it(tmp_path: Path) -> None:
    """On both sides, and the guest loses nothing."""
    shape = ("--net", "1x2", "--blk", "1x1", "--vcpus", "1", "--memory", "256M", "--accel", "soft")
    out = tmp_path / "result.json"
    with subprocess.Popen(
        [*EMU, "migrate", *shape, "--strategy", "split,handover", "--json", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as run:
        confined: set[int] = set()
        while not _ends_within(run, 0.02):
            for child in set(_back_ends(run.pid)) - confined:
                # When its devices are made; the migration begins when its sockets listen.
                wait_until(
                    lambda: confinement(child) == CONFINED,  # noqa: B023  it is called at once
                    "a back-end is in the sandbox",
                )
                confined.add(child)
        assert run.returncode == 0, run.stderr and run.stderr.read()
    assert len(confined) >= 4
    assert [one["outcome"] for one in json.loads(out.read_text())["runs"]] == ["completed"] * 2


def _ends_within(run: subprocess.Popen[bytes], seconds: float) -> bool:
    with suppress(subprocess.TimeoutExpired):
        run.wait(seconds)
    return run.returncode is not None


def _back_ends(pid: int) -> Iterator[int]:
    """The back-end programs, without what they start: pyseccomp has ldconfig look for a library."""
    for child in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.Error):
            parent = child.parent()
            if _is_back_end(child) and not (parent and _is_back_end(parent)):
                yield child.pid


def _is_back_end(process: psutil.Process) -> bool:
    return any("backends." in word for word in process.cmdline())


# Where there can be none


@pytest.fixture
def no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs find neither of the bindings."""
    folder = tmp_path / "shadow"
    folder.mkdir()
    for name in sandbox.BINDINGS:
        text = f"raise ModuleNotFoundError('No module named {name}', name='{name}')"
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


@pytest.mark.usefixtures("no_library")
def test_without_the_library_a_program_reports_it_and_serves(kind: Kind, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with program(kind.arguments(tmp_path), "--socket-path", path) as process:
        with rig_at(path, kind.rings) as rig:
            rig.start()
            kind.prepare(rig)
            kind.work(rig)
        process.terminate()
        lines = process.communicate(timeout=PROGRAM_TIMEOUT)[1].decode()
    assert lines == (
        f"vhost-emu-{kind.name}: runs without a seccomp filter: "
        "the Python module pyseccomp is missing\n"
    )


@pytest.mark.usefixtures("no_library")
def test_a_sandbox_that_was_asked_for_has_to_be_had(tmp_path: Path) -> None:
    arguments = [*BLK, "--blk-file", str(Blk().image(tmp_path)), "--sandbox"]
    line = fails([*arguments, "--socket-path", str(tmp_path / "s")], status=1)
    assert line == (
        "vhost-emu-blk: --sandbox: no seccomp filter: the Python module pyseccomp is missing\n"
    )
    assert not (tmp_path / "s").exists()
