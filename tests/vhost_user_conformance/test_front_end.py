"""The suite on our own front-end, and on ones that end, hang, send random bytes or are absent."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psutil
import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import running, wait_until
from vhost_user_conformance.model.case import FRONT_END
from vhost_user_conformance.target import cases_of

ROOT = Path(__file__).parents[2]
#: Seconds for all cases on both devices, side by side.
LONGEST = 10 * PROGRAM_TIMEOUT
CONFORM = (sys.executable, "-m", "emu.cli", "conform", "front-end")
ATTACH = f"{shlex.quote(sys.executable)} -m emu.cli attach -q"
#: Our front-end with further features (`optional_vm.py`): a disk, too.
MORE = "blk with more features"
OPTIONAL = "tests.vhost_user_conformance.front_end.optional_vm"
INCOMING = "tests.vhost_user_conformance.front_end.incoming_vm"
#: Commands of our own front-end, by the class of device.
OWN = {
    "blk": f"{ATTACH} --blk {{socket}} --rings 2 --scratch --qmp {{qmp}}",
    "net": f"{ATTACH} --net {{socket}} --qmp {{qmp}} --rings 4",
    "rng": f"{ATTACH} --rng {{socket}} --rings 1 --qmp {{qmp}}",
    MORE: f"env PYTHONPATH={ROOT} {shlex.quote(sys.executable)} -m {OPTIONAL} attach -q"
    " --blk {socket} --rings 2 --scratch --qmp {qmp}",
}
#: The destination of its migration, by the class of device; not of the one with more features.
DESTINATIONS = {
    device: f"env PYTHONPATH={ROOT} {shlex.quote(sys.executable)} -m {INCOMING} {device}"
    f" {{socket}} {rings} {{incoming}}"
    for device, rings in (("blk", 2), ("net", 4), ("rng", 1))
}
#: Features that it does not have. The test fails when one is added.
ABSENT = {
    "BACKEND_REQ",
    "CONFIGURE_MEM_SLOTS",
    "STATUS",
    *("SET_VRING_ERR", "RESET_DEVICE", "RESET_OWNER", "SEND_RARP", "NET_SET_MTU"),
    *("SET_BACKEND_REQ_FD", "SET_VRING_ENDIAN", "SET_CONFIG", "VRING_KICK", "SET_LOG_FD"),
    *("GET_MAX_MEM_SLOTS", "ADD_MEM_REG", "REM_MEM_REG", "GET_SHARED_OBJECT", "IOTLB_MSG"),
    *("CREATE_CRYPTO_SESSION", "CLOSE_CRYPTO_SESSION", "GPU_SET_SOCKET", "GET_SHMEM_CONFIG"),
    *("POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "POSTCOPY_END", "SET_STATUS", "GET_STATUS"),
    *("SET_DEVICE_STATE_FD", "CHECK_DEVICE_STATE"),
    *("GET_VRING_BASE_SKIP_DRAIN", "GPA_ADDRESSES"),
}
#: The same for a class of devices; with requests of one buffer there are no indirect tables.
_NO_CONFIG = {"CONFIG", "GET_CONFIG", "indirect"}
ABSENT_OF = {
    "blk": set[str](),
    "net": {*_NO_CONFIG, "INFLIGHT_SHMFD", "GET_INFLIGHT_FD", "SET_INFLIGHT_FD"},
    "rng": {*_NO_CONFIG, "queue"},  # it has one
}
#: What it does not have with more features.
ABSENT_OF_MORE = {
    *("RESET_OWNER", "SEND_RARP", "NET_SET_MTU", "SET_VRING_ENDIAN", "VRING_KICK", "SET_LOG_FD"),
    *("IOTLB_MSG", "CREATE_CRYPTO_SESSION", "CLOSE_CRYPTO_SESSION", "GPU_SET_SOCKET"),
    *("POSTCOPY_ADVISE", "POSTCOPY_LISTEN", "POSTCOPY_END"),
    *("SET_DEVICE_STATE_FD", "CHECK_DEVICE_STATE"),
    # It sends it in the sessions with objects only.
    "GET_SHARED_OBJECT",
    "--destination",
}


def conform(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    argv = [*CONFORM, *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )


def program(folder: Path, text: str) -> str:
    """The command of a front-end with this code; ``sock`` is not connected yet."""
    path = folder / "front_end.py"
    path.write_text(
        f"import signal, socket, sys, time\nsock = socket.socket(socket.AF_UNIX)\n{text}\n"
    )
    return f"{shlex.quote(sys.executable)} -I -S {shlex.quote(str(path))} {{socket}}"


CONNECT = "sock.connect(sys.argv[1])\n"
WAIT = "time.sleep(600)\n"
GET_FEATURES = "sock.send((1).to_bytes(4, 'little') * 2 + bytes(4))\n"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, dict[str, Any]]]:
    """The whole suite on our own front-end: status and JSON for each device.

    They run in parallel, as they wait most of the time.
    """
    folder = tmp_path_factory.mktemp("own")
    running = {
        device: subprocess.Popen(
            [
                *(*CONFORM, "--device", device.split()[0], "--exec", command),
                *("--strict", "--json", str(folder / device)),
                *(("--destination", DESTINATIONS[device]) if device in DESTINATIONS else ()),
            ],
            stdout=subprocess.DEVNULL,
        )
        for device, command in OWN.items()
    }
    statuses = {device: process.wait(LONGEST) for device, process in running.items()}
    return {
        device: (status, json.loads((folder / device).read_text()))
        for device, status in statuses.items()
    }


@pytest.mark.slow
@pytest.mark.timeout(LONGEST + 60)
@pytest.mark.parametrize("device", OWN)
def test_our_front_end_keeps_every_rule(
    device: str, own: dict[str, tuple[int, dict[str, Any]]]
) -> None:
    """No FAIL, no ERROR."""
    status, whole = own[device]
    bad = [
        f"{case['id']} {case['verdict']}: {case['expected']}; {case['seen']}"
        for case in whole["cases"]
        if case["verdict"] in ("FAIL", "ERROR")
    ]
    assert not bad, "\n".join(bad)
    assert status == 0
    assert whole["schema"] == 1
    assert whole["role"] == "front-end"
    assert whole["peer"]["device"] == device.split(maxsplit=1)[0]
    assert whole["offered"]["rings"] == {"blk": 2, "net": 4, "rng": 1}[device.split(maxsplit=1)[0]]
    assert whole["not_sane"] == []
    assert len(whole["cases"]) == len(cases_of(FRONT_END)) == sum(whole["summary"].values())
    assert whole["summary"]["PASS"] >= 150


@pytest.mark.slow
@pytest.mark.timeout(LONGEST + 60)
@pytest.mark.parametrize("device", OWN)
def test_unsupported_cases_are_about_absent_features(
    device: str, own: dict[str, tuple[int, dict[str, Any]]]
) -> None:
    """A case that is UNSUPPORTED for another reason would test nothing.

    A feature that no case misses any more has been added.
    """
    absent = ABSENT_OF_MORE if device == MORE else ABSENT | ABSENT_OF[device]
    missed = set[str]()
    for case in own[device][1]["cases"]:
        if case["verdict"] != "UNSUPPORTED":
            continue
        seen = case["seen"]
        words = set(seen.replace(":", " ").replace(",", " ").split())
        other = seen.startswith("is about ") or "requests no acknowledgement of SET_VRING_" in seen
        assert other or words & absent, f"{case['id']}: {seen}"
        missed |= words & absent
    assert missed == absent


def test_junit(tmp_path: Path) -> None:
    """The JUnit file, as CI systems read it."""
    path = tmp_path / "junit.xml"
    done = conform("--exec", OWN["blk"], "--only", "VU-F-0101", "--junitxml", str(path))
    assert done.returncode == 0, done.stderr
    suite = ET.parse(path).getroot()  # noqa: S314  our own file
    assert (suite.get("tests"), suite.get("failures")) == ("1", "0")
    assert suite.get("skipped") == "0"
    (case,) = suite.findall("testcase")
    assert case.get("classname") == "vhost-user.front-end.framing"


def test_list() -> None:
    """As text and as JSON."""
    assert "VU-F-0401" in conform("--list").stdout
    listed = json.loads(conform("--list", "--json", "--only", "bases").stdout)
    assert {case["area"] for case in listed["cases"]} == {"bases"}
    assert all(case["id"].startswith("VU-F-") for case in listed["cases"])
    assert "verdict" not in listed["cases"][0]


def test_a_violated_rule(tmp_path: Path) -> None:
    """It is reported with the messages up to the violation, and by the exit status."""
    command = program(
        tmp_path,
        CONNECT + "sock.send(bytes([1,0,0,0, 0x11,0,0,0]) + bytes(4))\n"
        "sock.recv(20)\nsock.send(bytes([3,0,0,0, 1,0,0,0]) + bytes(4))\n" + WAIT,
    )
    done = conform("--exec", command, "--only", "VU-F-0103", "--patience", "0.2")
    assert done.returncode == 1
    assert "VU-F-0103 FAIL (must) No request has an undefined flag set" in done.stdout
    assert "\n      < GET_FEATURES flags 0x11\n" in done.stdout
    assert "\ncases: 1 failed (1 must), " in done.stdout


@pytest.mark.slow
def test_a_front_end_that_reconnects(tmp_path: Path) -> None:
    """--socket alone: the suite has not started it, and does not end it."""
    path = tmp_path / "s"
    argv = shlex.split(f"{ATTACH} --rings 2 --scratch --blk {shlex.quote(str(path))}")
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as vm:
        try:
            # Its devices reconnect after each session.
            only = ("--only", "framing", "--only", "rings", "--only", "errors")
            done = conform("--socket", str(path), "--device", "blk", "--verbose", *only)
        finally:
            vm.terminate()
    assert done.returncode == 0, done.stdout + done.stderr
    assert " FAIL (" not in done.stdout
    assert "VU-F-1709 OBSERVED" in done.stdout
    assert "it reconnects" in done.stdout


@pytest.mark.parametrize(
    ("does", "text"),
    [
        pytest.param(
            CONNECT + WAIT,
            "is not a vhost-user front-end: it sends nothing",
            marks=pytest.mark.slow,
        ),
        (CONNECT, "is not a vhost-user front-end: < end of the connection"),
        (
            CONNECT + "sock.send(b'GET / HTTP/1.0\\r\\n\\r\\n')\n" + WAIT,
            "is not a vhost-user front-end: < a header of 825184340 bytes",
        ),
        (
            # It reads no replies, until the suite cannot send one.
            CONNECT + "while True: sock.sendall(bytes([1,0,0,0,1,0,0,0])+bytes(4))\n",
            "stops after GET_FEATURES",
        ),
        pytest.param(
            CONNECT + GET_FEATURES + WAIT,
            "stops after GET_FEATURES (message 1, at start)",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CONNECT + GET_FEATURES + WAIT,
            "stops after GET_FEATURES",
            marks=pytest.mark.slow,
        ),
        (CONNECT + "import os\nos.kill(os.getpid(), signal.SIGKILL)\n", "end of the connection"),
    ],
)
def test_a_program_that_is_not_a_front_end_is_a_one_line_error(
    tmp_path: Path, does: str, text: str
) -> None:
    """The suite ends also where the program does not."""
    done = conform("--exec", program(tmp_path, does), "--patience", "1")
    assert (done.returncode, done.stdout) == (1, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("started", [False, True])
def test_no_front_end_connects(tmp_path: Path, started: bool) -> None:
    """The suite ends after the time limit, whether there is a program or not."""
    command = ("--exec", program(tmp_path, WAIT)) if started else ()
    done = conform("--socket", str(tmp_path / "s"), "--patience", "0.1", *command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"emu: no front-end connects to {tmp_path}/s within 3 s\n"
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_front_end_that_connects_once(tmp_path: Path) -> None:
    """Verdicts so far are kept, further cases are ERROR, and the last line has the reason."""
    does = CONNECT + GET_FEATURES + "sock.recv(20)\nsock.send(bytes([3,0,0,0,1,0,0,0])+bytes(4))\n"
    argv = shlex.split(
        program(
            tmp_path,
            f"while True:\n try: sock.connect(sys.argv[1]); break\n"
            f" except OSError: time.sleep(.02)\n{does[len(CONNECT) :]}{WAIT}",
        )
    )
    path = str(tmp_path / "s")
    with subprocess.Popen([word.replace("{socket}", path) for word in argv]) as front_end:
        try:
            only = ("--only", "VU-F-0101", "--only", "VU-F-0160", "--only", "VU-F-0161")
            done = conform("--socket", path, "--patience", "0.2", *only)
        finally:
            front_end.terminate()
    assert done.returncode == 1
    assert "VU-F-0160 ERROR" in done.stdout
    assert "VU-F-0161 ERROR" in done.stdout
    assert "VU-F-0101" not in done.stdout
    assert done.stderr.startswith("emu: at VU-F-0160: no front-end connects")


def test_a_front_end_that_truncates_its_memory(tmp_path: Path) -> None:
    """Each case gets a verdict, and the run goes on to the last one."""
    module = "tests.vhost_user_conformance.front_end.truncating_front_end"
    command = f"env PYTHONPATH={ROOT} {shlex.quote(sys.executable)} -m {module} {{socket}}"
    report = tmp_path / "json"
    only = [word for case in ("VU-F-0301", "VU-F-0310", "VU-F-0501") for word in ("--only", case)]
    options = ("--device", "blk", "--exec", command, "--patience", "0.5", "--json", str(report))
    done = conform(*options, *only)
    assert done.returncode in (0, 1), done.stderr
    cases = json.loads(report.read_text())["cases"]
    assert {"VU-F-0301", "VU-F-0310", "VU-F-0501"} <= {case["id"] for case in cases}
    assert [case["verdict"] for case in cases if case["id"] == "VU-F-0301"] == ["PASS"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing_behind(tmp_path: Path, signum: int) -> None:
    """No program, no directory and no socket is left; the output is one line."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    argv = [*CONFORM, "--device", "blk", "--exec", OWN["blk"]]
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as suite:
        children = await_children(suite)
        suite.send_signal(signum)
        out, err = suite.communicate(timeout=PROGRAM_TIMEOUT)
    assert suite.returncode == 128 + signum
    assert (out, err) == ("", f"emu: ended by {signal.Signals(signum).name}\n")
    wait_until(lambda: not running(children), "its programs have ended")
    assert list(tmp_path.iterdir()) == []


def test_the_program_ends_with_a_suite_that_is_killed(tmp_path: Path) -> None:
    """The kernel ends it (PR_SET_PDEATHSIG)."""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([*CONFORM, "--exec", OWN["blk"]], env=environment) as suite:
        children = await_children(suite)
        suite.kill()
    wait_until(lambda: not running(children), "its programs have ended")


def await_children(suite: subprocess.Popen[Any]) -> list[psutil.Process]:
    """Wait for a program that it has started, and return all of them."""
    children: list[psutil.Process] = []

    def started() -> list[psutil.Process]:
        assert suite.poll() is None
        children[:] = psutil.Process(suite.pid).children(recursive=True)
        return children

    wait_until(started, "the suite has started a program")
    return children
