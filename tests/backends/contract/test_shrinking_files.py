"""Files that shrink while a program has them mapped: its device fails, its neighbours go on."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.backends.contract.neighbours import neighbours
from tests.backends.rig import LOG_ALL, Rig
from tests.backends.served import KINDS, Kind
from tests.slow import all_but
from tests.timeouts import TIMEOUT
from vhost_user import inflight
from vhost_user.errors import Disconnected, Refused, VhostUserError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.messages import Request
from vhost_user.payloads import Inflight, LogArea
from vhost_user.readiness import readable
from vhost_user.virtio.blk import REQUEST_HEADER, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_T_OUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.backends.contract.given import MakeRig
    from tests.backends.served import Blk

#: What to cut, and the device's line about it.
FILES = {
    "rings": "guest memory at 0x100000 is lost",
    "buffers": "guest memory at 0x4000000 is lost",
    "log": "the dirty log is lost",
    "inflight": "the inflight region is lost",
}
OUTSTANDING = 8

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(params=all_but({"blk"}, KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    """A disk has all kinds of files; the other devices are tried in the long run only."""
    return KINDS[request.param]()


def skip_if_missing(rig: Rig, kind: Kind, file: str) -> None:
    features = rig.connection.protocol_features
    if file == "inflight" and not features & ProtocolFeature.INFLIGHT_SHMFD:
        pytest.skip("the device has no inflight region")
    if file == "buffers" and kind.name == "net":
        pytest.skip("frames lie beside the rings")


def give_log(rig: Rig, kept: int | None = None) -> int:
    """A log without seals, cut before it is sent if ``kept`` is less than its size."""
    fd = os.memfd_create("log")
    size = (rig.high.region.gpa + rig.high.region.size) // 4096 // 8
    os.ftruncate(fd, size if kept is None else kept)
    rig.call(Request(F.SET_LOG_BASE, LogArea(size, 0), (fd,), need_reply=True))
    rig.set_features(rig.features | LOG_ALL)
    return fd


def give_inflight(rig: Rig, kept: int | None = None) -> int:
    """An inflight region without seals; as `give_log`."""
    size = len(rig.rings) * inflight.ring_bytes(64)
    fd = os.memfd_create("inflight")
    os.ftruncate(fd, size if kept is None else kept)
    rig.ack(F.SET_INFLIGHT_FD, Inflight(size, 0, len(rig.rings), 64), (fd,))
    return fd


def start(rig: Rig, kind: Kind, file: str) -> int:
    """Start all rings; the descriptor of the file."""
    rig.set_features()
    rig.set_mem_table()
    fd = {"rings": rig.low.fd, "buffers": rig.high.fd}.get(file, -1)
    if file == "log":
        fd = give_log(rig)
    elif file == "inflight":
        fd = give_inflight(rig)
    for ring in rig.rings:
        ring.set_up(list(ring.requests()))
        rig.ack(F.SET_VRING_ADDR, ring.addr(log=file == "log"))
        ring.kick()
    kind.prepare(rig)
    return fd


def idle(rig: Rig, kind: Kind, cut: Callable[[], None]) -> None:
    """Nothing is in flight when it is cut."""
    kind.work(rig)
    cut()


def under_load(rig: Rig, kind: Kind, cut: Callable[[], None]) -> None:
    """There are always some requests that have not been served."""
    ring = rig.rings[kind.ring]
    done = number = 0
    while done < 5 * OUTSTANDING:
        while number < done + OUTSTANDING:
            rig.free_all()
            kind.submit(rig, number)
            number += 1
        while ring.driver.pop() is not None:
            done += 1
    cut()


MOMENTS = {"idle": idle, "under load": under_load}


def go_on(rig: Rig, kind: Kind) -> None:
    """The guest goes on as well as it can, with a memory of which a part is gone here, too."""
    for number in range(OUTSTANDING):
        rig.free_all()
        with suppress(VhostUserError, IndexError):
            kind.submit(rig, number)
    for ring in rig.rings:
        ring.kick()


def await_end(rig: Rig) -> None:
    assert readable([rig.connection.fileno()], TIMEOUT)
    with pytest.raises(Disconnected):
        rig.connection.receive()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("file", FILES)
def test_the_device_that_maps_it_fails_by_name_and_its_neighbour_goes_on(
    kind: Kind, tmp_path: Path, make_rig: MakeRig, file: str, moment: str
) -> None:
    with neighbours(kind, tmp_path, make_rig) as pair:
        rig = pair.front_end(0)
        skip_if_missing(rig, kind, file)
        fd = start(rig, kind, file)
        MOMENTS[moment](rig, kind, lambda: os.ftruncate(fd, 0))
        go_on(rig, kind)
        await_end(rig)
        pair.check()
        again = pair.front_end(0).start()
        kind.prepare(again)
        kind.work(again)
        pair.check()
        again.connection.close()
        (line,) = pair.lines()
        assert line.endswith(f": first: {FILES[file]}: its file has shrunk; connection closed")


def refuse_memory(rig: Rig, cut: int) -> None:
    os.ftruncate(cut, 4096)
    rig.set_mem_table()


def refuse_log(rig: Rig) -> None:
    rig.set_mem_table()
    give_log(rig, kept=8)


def refuse_inflight(rig: Rig) -> None:
    give_inflight(rig, kept=64)


REFUSED: dict[str, Callable[[Rig], None]] = {
    "rings": lambda rig: refuse_memory(rig, rig.low.fd),
    "buffers": lambda rig: refuse_memory(rig, rig.high.fd),
    "log": refuse_log,
    "inflight": refuse_inflight,
}


@pytest.mark.parametrize("file", FILES)
def test_what_is_cut_before_it_is_mapped_is_refused(
    kind: Kind, tmp_path: Path, make_rig: MakeRig, file: str
) -> None:
    with neighbours(kind, tmp_path, make_rig) as pair:
        rig = pair.front_end(0)
        skip_if_missing(rig, kind, file)
        rig.set_features()
        with pytest.raises((Refused, Disconnected)):  # a log is answered, not acknowledged
            REFUSED[file](rig)
        pair.check()


@pytest.mark.parametrize("file", ["rings", "buffers"])
def test_a_stop_is_answered_or_the_connection_closed(
    kind: Kind, tmp_path: Path, make_rig: MakeRig, file: str
) -> None:
    with neighbours(kind, tmp_path, make_rig) as pair:
        rig = pair.front_end(0)
        fd = start(rig, kind, file)
        kind.submit(rig, 0)
        os.ftruncate(fd, 0)
        for ring in rig.rings:
            ring.kick()
        with suppress(Disconnected):
            for ring in rig.rings:
                ring.stop()
        pair.check()


def test_statistics_go_on_in_memory(kind: Kind, tmp_path: Path, make_rig: MakeRig) -> None:
    path = tmp_path / "stats"
    with neighbours(kind, tmp_path, make_rig, "--stats-file", str(path)) as pair:
        pair.check()
        os.truncate(path, 0)
        for _ in range(3):
            pair.check()
        (line,) = pair.lines()
        assert line.endswith("stats has been made shorter: it is not written any more")


@pytest.mark.parametrize("kind", ["blk"], indirect=True)
def test_an_image_that_is_cut_fails_requests(kind: Blk, tmp_path: Path, make_rig: MakeRig) -> None:
    """No device fails: the guest sees an error of its disk, and the disk again when it is back."""
    with neighbours(kind, tmp_path, make_rig) as pair:
        rig = pair.front_end(0).start()
        kind.work(rig)
        image = kind.image(tmp_path)
        contents = image.read_bytes()
        os.truncate(image, 0)
        for number in range(OUTSTANDING):
            kind.submit(rig, number)
        for _ in range(OUTSTANDING):
            rig.rings[kind.ring].wait()
        assert {data[512] for _, data in rig.buffers.values()} == {VIRTIO_BLK_S_IOERR}
        pair.check()
        image.write_bytes(contents)
        kind.work(rig)
        assert pair.lines() == []


@pytest.mark.parametrize("kind", ["blk"], indirect=True)
@pytest.mark.parametrize("size", [512, 2048 * 512])
def test_nothing_of_lost_memory_reaches_the_disk(
    kind: Blk, tmp_path: Path, make_rig: MakeRig, size: int
) -> None:
    """Neither in the loop's thread nor, as large requests are, in another one."""
    with neighbours(kind, tmp_path, make_rig) as pair:
        rig = pair.front_end(0).start()
        contents = kind.image(tmp_path).read_bytes()
        header_gpa, header = rig.alloc(16)
        header[:] = REQUEST_HEADER.pack(VIRTIO_BLK_T_OUT, 0, 0)
        status_gpa, _ = rig.alloc(1)
        os.ftruncate(rig.high.fd, 0)
        readable_parts = [(header_gpa, 16), (rig.high.region.gpa, size)]
        for _ in range(OUTSTANDING):
            rig.rings[kind.ring].add(readable_parts, [(status_gpa, 1)])
        await_end(rig)
        pair.check()
        assert kind.image(tmp_path).read_bytes() == contents
