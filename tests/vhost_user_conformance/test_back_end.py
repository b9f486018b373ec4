"""The suite on our own back-ends, and on ones that crash, hang or do not listen."""

from __future__ import annotations

import json
import shlex
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.target import cases_of, shard

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = shlex.quote(sys.executable)
#: Seconds for all cases, of which there are hundreds, on a busy machine.
LONGEST = 4 * PROGRAM_TIMEOUT


def conform(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    argv = [sys.executable, "-m", "emu.cli", "conform", "back-end", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=LONGEST, check=False)


def disk(folder: Path) -> str:
    """The command of our disk."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    program = f"{PYTHON} -m backends.blk --socket-path {{socket}} --num-queues 4"
    return f"{program} --blk-file {shlex.quote(str(image))}"


def verdicts(whole: dict[str, Any], *wanted: str) -> list[str]:
    """The cases with these verdicts, each with what was seen."""
    cases = [case for case in whole["cases"] if case["verdict"] in wanted]
    return [f"{case['id']}: {case['seen']}" for case in cases]


def run(command: str, device: str, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The status, and the JSON."""
    done = conform("--device", device, "--exec", command, "--json", "-", *arguments)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.timeout(LONGEST + 20)
@pytest.mark.parametrize(
    ("device", "options", "part", "passes"),
    [
        ("blk", "", (1, 10), 50),
        pytest.param("blk", "", (1, 1), 580, marks=pytest.mark.slow),
        pytest.param("net", "--num-queues 4", (1, 1), 480, marks=pytest.mark.soak),
        pytest.param(
            "net", "--num-queues 4 --mac 02:00:00:00:00:01", (1, 1), 550, marks=pytest.mark.slow
        ),
        pytest.param("rng", "", (1, 1), 460, marks=pytest.mark.slow),
    ],
    ids=["blk-a-tenth", "blk", "net", "net-with-a-configuration-space", "rng"],
)
def test_our_back_ends_keep_every_rule(
    device: str, options: str, part: tuple[int, int], passes: int, tmp_path: Path
) -> None:
    """No FAIL, no ERROR; UNSUPPORTED cases are about features that they do not have."""
    program = disk(tmp_path)
    if device != "blk":
        program = f"{PYTHON} -m backends.{device} --socket-path {{socket}} {options}"
    status, whole = run(program, device, "--strict", "--shard", "{}/{}".format(*part))
    assert verdicts(whole, "FAIL", "ERROR") == []
    assert status == 0
    assert whole["schema"] == 1
    assert whole["role"] == "back-end"
    assert whole["peer"]["device"] == device
    assert len(whole["cases"]) == len(shard(cases_of(BACK_END), *part))
    assert len(whole["cases"]) == sum(whole["summary"].values())
    assert whole["summary"]["PASS"] >= passes
    unsupported = [case for case in whole["cases"] if case["verdict"] == "UNSUPPORTED"]
    reasons = ("is not offered", "is about", "without", "has fewer", "does not drive")
    assert all(any(reason in case["seen"] for reason in reasons) for case in unsupported)


def test_a_program_that_listens_already(tmp_path: Path) -> None:
    """--socket, and a part of the cases."""
    path = tmp_path / "s"
    argv = shlex.split(disk(tmp_path).replace("{socket}", str(path)))
    with subprocess.Popen(argv) as program:
        try:
            done = conform("--socket", str(path), "--only", "framing", "--only", "VU-B-0201")
        finally:
            program.terminate()
    assert done.returncode == 0, done.stderr
    assert "framing" in done.stdout
    assert "rings" not in done.stdout


def test_junit(tmp_path: Path) -> None:
    """The JUnit file, as CI systems read it."""
    path = tmp_path / "junit.xml"
    conform("--exec", disk(tmp_path), "--only", "rings", "--junitxml", str(path))
    suite = ET.parse(path).getroot()  # noqa: S314  our own file
    assert suite.get("failures") == "0"
    assert int(suite.get("tests", "0")) == len([c for c in cases_of(BACK_END) if c.area == "rings"])
    # Without --device cases about requests are skipped.
    assert suite.findall("testcase/skipped")


def test_list() -> None:
    """As text, and as JSON."""
    shown = conform("--list").stdout
    assert "VU-B-0401" in shown
    assert f"cases: {len(cases_of(BACK_END))}," in shown
    listed = json.loads(conform("--list", "--json", "--only", "bases").stdout)
    assert {case["area"] for case in listed["cases"]} == {"bases"}
    assert "verdict" not in listed["cases"][0]


class Impostor:
    """Listens, and sends a fixed answer to the first message of each connection."""

    def __init__(self, path: Path, answer: bytes) -> None:
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(str(path))
        self._server.listen(8)
        self._answer = answer
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            self._kept.append(sock)
            sock.recv(12)
            sock.send(self._answer)

    def close(self) -> None:
        """End."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in self._kept:
            sock.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(12)])
def test_a_socket_of_another_program(tmp_path: Path, answer: bytes) -> None:
    """It is reported as not a back-end, and the suite ends."""
    impostor = Impostor(tmp_path / "s", answer)
    try:
        done = conform("--socket", str(tmp_path / "s"), "--patience", "0.3")
    finally:
        impostor.close()
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_a_full_disk_does_not_hide_the_verdicts(tmp_path: Path) -> None:
    """Results are printed before they are written to a file."""
    done = conform("--exec", disk(tmp_path), "--only", "VU-B-0101", "--junitxml", "/dev/full")
    assert done.returncode == 1
    assert "framing      1" in done.stdout
    assert done.stderr == "emu: --junitxml /dev/full: No space left on device\n"
