"""``vhost-emu-blk``: its files, and what it does with them."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from tests.backends.programs import BLK, fails, rig_at
from tests.backends.served import Blk, program
from tests.timeouts import TIMEOUT
from vhost_user.codec import HEADER, NEED_REPLY, VERSION
from vhost_user.messages import BackendRequest, Request
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import VringState
from vhost_user.readiness import readable
from vhost_user.virtio.blk import REQUEST_HEADER, VIRTIO_BLK_T_GET_ID


@pytest.fixture
def image(tmp_path: Path) -> str:
    return str(Blk().image(tmp_path))


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ([], "each --socket-path needs a --blk-file"),
        (["--blk-file", "x", "--blk-file", "x"], "each --socket-path needs a --blk-file"),
        (["--blk-file", "x", *(["--serial", "s"] * 2)], "each --socket-path needs a --serial"),
    ],
)
def test_options_that_do_not_fit(extra: list[str], text: str, tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert text in fails([*BLK, "--socket-path", str(path), *extra], status=2)
    assert not path.exists()


@pytest.mark.parametrize(
    ("given", "serial"), [([], b"vhost-emu-0"), (["--serial", "mine"], b"mine")]
)
def test_a_disk_has_the_serial_number_that_it_was_given(
    image: str, tmp_path: Path, given: list[str], serial: bytes
) -> None:
    path = str(tmp_path / "s")
    arguments = [*BLK, "--socket-path", path, "--blk-file", image, *given]
    with program(arguments), rig_at(path, 1) as rig:
        rig.start()
        gpa, header = rig.alloc(16)
        header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_GET_ID, 0, 0)
        answer_gpa, answer = rig.alloc(21)
        rig.rings[0].add([(gpa, 16)], [(answer_gpa, 21)])
        rig.rings[0].wait()
        assert bytes(answer[:20]).rstrip(b"\0") == serial


def test_disk_files_that_cannot_be_served(tmp_path: Path) -> None:
    sock = str(tmp_path / "s")
    (tmp_path / "empty").touch()
    (tmp_path / "short").write_bytes(bytes(1000))
    for name, text in (
        ("none", "No such file"),
        ("empty", "is empty"),
        ("short", "multiple of 512"),
    ):
        file = str(tmp_path / name)
        line = fails([*BLK, "--socket-path", sock, "--blk-file", file], status=1)
        assert text in line
        assert file in line
        assert not Path(sock).exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_disk_file_without_permission(image: str, tmp_path: Path) -> None:
    Path(image).chmod(0)
    line = fails([*BLK, "--socket-path", str(tmp_path / "s"), "--blk-file", image], status=1)
    assert "Permission denied" in line


def test_second_of_two_disks_is_bad(image: str, tmp_path: Path) -> None:
    """Nothing of the first one is left."""
    line = fails(
        [
            *BLK,
            *("--socket-path", str(tmp_path / "a"), "--blk-file", image),
            *("--socket-path", str(tmp_path / "b"), "--blk-file", str(tmp_path / "none")),
        ],
        status=1,
    )
    assert "none" in line
    assert {path.name for path in tmp_path.iterdir()} == {"disk.img"}


def test_image_is_never_used_by_two_programs(tmp_path: Path) -> None:
    kind = Blk()
    arguments = kind.arguments(tmp_path)
    paths = [str(tmp_path / name) for name in ("source", "destination")]
    with (
        program(arguments, "--socket-path", paths[0]),
        program(arguments, "--socket-path", paths[1]) as destination,
        rig_at(paths[0], kind.rings) as source_rig,
        rig_at(paths[1], kind.rings) as destination_rig,
    ):
        source_rig.start()
        kind.work(source_rig)
        destination_rig.start()
        assert destination.stderr is not None
        line = destination.stderr.readline().decode()
        assert line.startswith("vhost-emu-blk: destination: ring ")
        assert "in use by another back-end" in line
        source_rig.pipeline(
            [Request(F.GET_VRING_BASE, VringState(n, 0)) for n in range(kind.rings)]
        )
        # At once: the image is unlocked before the reply.
        destination_rig.rings[kind.ring].kick()
        kind.work(destination_rig)


def test_sighup_reads_the_sizes_of_the_images(tmp_path: Path) -> None:
    """The program goes on, and the front-end of an image that has grown is notified."""
    kind = Blk()
    path, image = str(tmp_path / "s"), kind.image(tmp_path)
    with (
        program(kind.arguments(tmp_path), "--socket-path", path) as process,
        rig_at(path, kind.rings) as rig,
    ):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            rig.ack(F.SET_BACKEND_REQ_FD, None, (theirs.fileno(),))
            rig.start()
            process.send_signal(signal.SIGHUP)
            kind.work(rig, 1)
            os.truncate(image, 2 * image.stat().st_size)
            process.send_signal(signal.SIGHUP)
            assert readable([ours.fileno()], TIMEOUT)
            expected = HEADER.pack(BackendRequest.CONFIG_CHANGE_MSG, VERSION | NEED_REPLY, 0)
            assert ours.recv(100) == expected
        kind.work(rig, 2)
