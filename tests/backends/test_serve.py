"""``vhost-emu-serve``, with the example of docs/tutorials/first-back-end.md."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import itertools
import json
import re
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.backends.programs import fails, rig_at
from tests.backends.rig import Rig
from tests.backends.served import program
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.frontend import FrontendConnection
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import Config
from vhost_user.virtio.blk import (
    REQUEST_HEADER,
    VIRTIO_BLK_S_IOERR,
    VIRTIO_BLK_S_OK,
    VIRTIO_BLK_S_UNSUPP,
    VIRTIO_BLK_T_GET_ID,
    VIRTIO_BLK_T_IN,
    VIRTIO_BLK_T_OUT,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = Path(__file__).parents[2] / "docs" / "tutorials" / "first-back-end.md"
EMU = str(Path(sys.executable).with_name("emu"))
SERVE = [sys.executable, "-m", "backends.serve"]
SECTORS = 2048
ASKS = "from backends.virtio_device import VirtioDevice\nclass Asks(VirtioDevice):\n"


@pytest.fixture
def example(tmp_path: Path) -> str:
    """The file that the document shows."""
    (text,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    path = tmp_path / "ramdisk.py"
    path.write_text(text)
    return str(path)


@pytest.fixture
def rig(example: str, tmp_path: Path) -> Iterator[Rig]:
    path = str(tmp_path / "s")
    options = ["--plugin", example, "-o", "mib=1", "--num-queues", "2"]
    with program([*SERVE, *options], "--socket-path", path):
        made = Rig(FrontendConnection.connect(path, name="example"), 2)
        yield made.start()
        made.close()


def request(
    rig: Rig, kind: int, sector: int, data: bytes = b"", room: int = 0
) -> tuple[int, bytes]:
    """A request on the second ring; its status, and what was read."""
    header_gpa, header = rig.alloc(REQUEST_HEADER.size + len(data))
    header[:] = REQUEST_HEADER.pack(kind, 0, sector) + data
    gpa, answer = rig.alloc(room + 1)
    answer[room] = 0xFF
    writable = [(gpa, room), (gpa + room, 1)] if room else [(gpa, 1)]
    rig.rings[1].add([(header_gpa, len(header))], writable)
    rig.rings[1].wait()
    return answer[room], bytes(answer[:room])


def test_the_example_is_a_disk(rig: Rig) -> None:
    data = bytes(range(256)) * 4
    assert request(rig, VIRTIO_BLK_T_OUT, SECTORS - 2, data) == (VIRTIO_BLK_S_OK, b"")
    assert request(rig, VIRTIO_BLK_T_IN, SECTORS - 2, room=1024) == (VIRTIO_BLK_S_OK, data)
    assert request(rig, VIRTIO_BLK_T_IN, 0, room=512) == (VIRTIO_BLK_S_OK, bytes(512))
    assert request(rig, VIRTIO_BLK_T_IN, SECTORS, room=512)[0] == VIRTIO_BLK_S_IOERR
    assert request(rig, VIRTIO_BLK_T_OUT, SECTORS - 1, data)[0] == VIRTIO_BLK_S_IOERR
    name = request(rig, VIRTIO_BLK_T_GET_ID, 0, room=20)
    assert name == (VIRTIO_BLK_S_OK, b"ramdisk".ljust(20, b"\0"))
    assert request(rig, 99, 0)[0] == VIRTIO_BLK_S_UNSUPP
    assert rig.rings[1].stop() == 7


def test_its_configuration_space(rig: Rig) -> None:
    reply = rig.call(Request(F.GET_CONFIG, Config(0, 0, bytes(36))))
    assert reply is not None
    assert isinstance(reply.payload, Config)
    assert struct.unpack("<Q26xH", reply.payload.data) == (SECTORS, 2)


def test_its_capabilities(example: str) -> None:
    command = [*SERVE, "--plugin", example, "--print-capabilities"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"type": "block", "features": []}


def test_its_writes_to_guest_memory_are_logged(rig: Rig) -> None:
    log = rig.set_log()
    log.harvest()
    gpa = rig.alloc(0)[0]  # the next buffers: a header, and after it the answer
    request(rig, VIRTIO_BLK_T_IN, 0, room=512)
    dirty = [(start, start + length) for start, length in log.harvest()]
    assert any(start <= gpa + 4096 < end for start, end in dirty)
    log.close()


def test_a_request_that_breaks_the_rules_breaks_the_ring_alone(rig: Rig) -> None:
    gpa, _ = rig.alloc(1)
    rig.rings[0].add([(gpa, 1)], [])
    assert request(rig, VIRTIO_BLK_T_IN, 0, room=512)[0] == VIRTIO_BLK_S_OK
    assert rig.rings[0].stop() == 1


@pytest.mark.slow
def test_it_passes_the_conformance_suite(example: str) -> None:
    """The areas to which its own code matters."""
    serve = [*SERVE, "--plugin", example, "--socket-path", "{socket}"]
    only = [("--only", area) for area in ("program", "config", "data_blk")]
    command = [EMU, "conform", "back-end", "--device", "blk", "--exec", shlex.join(serve)]
    done = subprocess.run(
        [*command, *itertools.chain(*only)],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " 0 failed" in done.stdout


def test_a_class_may_limit_the_number_of_its_rings(tmp_path: Path) -> None:
    text = ASKS + "    serve, ring_limits = print, RingLimits(6, 3)\n"
    path = tmp_path / "limited.py"
    path.write_text("from vhost_user.virtio.ring_limits import RingLimits\n" + text)
    command = [*SERVE, "--plugin", str(path), "--socket-path", str(tmp_path / "s"), "--num-queues"]
    assert "--num-queues 9: devices of Asks have at most 6 rings each" in fails([*command, "9"])
    assert "--num-queues 4: rings of devices of Asks come in groups of 3" in fails([*command, "4"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "use --plugin FILE or --device NAME"),
        (["--device", "nothing"], "no such entry point"),
        (["--plugin", "/no/such/file.py"], "not a Python file"),
        (["--plugin", "{example}", "-o", "weight=1"], "unexpected keyword argument 'weight'"),
        (["--plugin", "{example}", "-o", "mib"], "write KEY=VALUE"),
        (["--plugin", "{example}", "-o", "mib=many"], "RamDisk: invalid literal"),
        (["--plugin", "{example}", "-o", "mib=1", "--num-queues", "257"], "at most 256 rings"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, example: str, options: list[str], message: str
) -> None:
    arguments = [option.format(example=example) for option in options]
    assert message in fails([*SERVE, "--socket-path", str(tmp_path / "s"), *arguments])
    assert not (tmp_path / "s").exists()


def test_an_error_of_the_class_fails_its_ring_alone(tmp_path: Path) -> None:
    """One line names it and its place, and the program goes on."""
    plugin = tmp_path / "asks.py"
    plugin.write_text(f"{ASKS}    def serve(self, ring, chain):\n        return 1 // 0\n")
    sock = str(tmp_path / "s")
    arguments = [*SERVE, "--plugin", str(plugin), "--socket-path", sock]
    with program(arguments) as process, rig_at(sock, 1) as rig:
        rig.start()
        rig.rings[0].add([(rig.alloc(16)[0], 16)], [])
        assert process.stderr is not None
        line = process.stderr.readline().decode()
        assert "s: ring 0: ZeroDivisionError" in line
        assert "asks.py:4" in line
        assert rig.rings[0].stop() == 1
