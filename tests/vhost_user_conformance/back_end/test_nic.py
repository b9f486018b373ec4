"""Frames and the rings of a NIC, on our own back-end, and on none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from tests.vhost_user_conformance.connected import connected
from vhost_user.features import VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC
from vhost_user_conformance.back_end.nic import ROOM, back, frame_of, laid_out, looped, send, sender
from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.device_work import NET_HEADER
from vhost_user_conformance.peer.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vhost_user_conformance.back_end.connection import BackEnd


@pytest.fixture
def be(tmp_path: Path) -> Iterator[BackEnd]:
    """A NIC that sends frames back."""
    with connected(tmp_path, "net", "--num-queues", "2") as made:
        yield made


def test_a_frame_has_its_size_and_its_number() -> None:
    """Two frames of one size differ."""
    assert [len(frame_of(size)) for size in (14, 60, 1514)] == [14, 60, 1514]
    assert frame_of(60, 1) != frame_of(60, 2)
    assert int.from_bytes(frame_of(60, 7)[14:18], "big") == 7


def test_bytes_are_laid_out_in_buffers() -> None:
    """The last one has the rest; an empty one is left out."""
    memory = Memory()
    pieces = laid_out(memory, b"abcdefgh", (3, 0, 2))
    assert [length for _, length in pieces] == [3, 2, 3]
    assert b"".join(memory.read(*piece) for piece in pieces) == b"abcdefgh"
    memory.close()


def test_a_transmitted_chain_is_completed_with_nothing_written(be: BackEnd) -> None:
    """The completion of another chain, or none, fails."""
    ring = sender(be, VIRTIO_RING_F_EVENT_IDX)
    send(be, ring, laid_out(ring.memory, bytes(NET_HEADER) + frame_of(60), ()))
    with pytest.raises(Failed, match="there is none"):
        back(ring, 0)


def test_frames_come_back(be: BackEnd) -> None:
    """In direct and indirect buffers of any division."""
    nic = looped(be, VIRTIO_RING_F_INDIRECT_DESC)
    for number, lengths in enumerate(((ROOM,), (NET_HEADER, ROOM), (7, 100, ROOM))):
        header = nic.comes_back(frame_of(200, number), *lengths, indirect=number == 2)
        assert len(header) == NET_HEADER


def test_another_frame_or_a_byte_too_many_fails(be: BackEnd) -> None:
    """What is received is compared as a whole."""
    nic = looped(be)
    buffer = nic.offer(ROOM)
    nic.send(frame_of(60, 1))
    with pytest.raises(Failed, match="the frame"):
        nic.checked(buffer, frame_of(60, 2))
    buffer = nic.offer(ROOM)
    nic.send(frame_of(60, 1))
    assert nic.rx.await_used(nic.rx.avail_index, TIMEOUT)
    nic.memory.write(buffer.pieces[0][0] + ROOM - 1, b"x")
    with pytest.raises(Failed, match="nothing written after the frame"):
        nic.take(buffer)
