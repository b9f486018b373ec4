"""The replies of a correct back-end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from vhost_user.payloads import U64, VRING_NO_FD, Config, Inflight, VringState
from vhost_user_conformance.front_end.descriptors import MEMFD, describe
from vhost_user_conformance.front_end.device import Disk
from vhost_user_conformance.front_end.recording import F, Recording
from vhost_user_conformance.front_end.replies import Replies
from vhost_user_conformance.front_end.ring_service import RingService
from vhost_user_conformance.front_end.script import PLAIN, Script, refusing
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.peer.wire import Message

if TYPE_CHECKING:
    from collections.abc import Iterator

BLK = row_of("blk")


def replies(script: Script = PLAIN) -> Replies:
    """Those of a disk."""
    return Replies(script, BLK, RingService(script, Disk(), Recording()))


@pytest.fixture
def plain() -> Iterator[Replies]:
    """Those of a correct back-end."""
    made = replies()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (F.GET_FEATURES, PLAIN.features(BLK)),
        (F.GET_PROTOCOL_FEATURES, PLAIN.protocol(BLK)),
        (F.GET_QUEUE_NUM, PLAIN.queues),
        (F.GET_MAX_MEM_SLOTS, PLAIN.slots),
        (F.SET_DEVICE_STATE_FD, VRING_NO_FD),
        (F.GET_STATUS, 0),
        # An acknowledgement.
        (F.SET_OWNER, 0),
        (999, 0),
    ],
)
def test_a_number_is_replied(plain: Replies, number: int, value: int) -> None:
    """Or an acknowledgement with 0."""
    assert plain.reply_to(Message(number, 1, b"")) == (U64(value).pack(), ())


def test_the_status_is_what_was_set(plain: Replies) -> None:
    """By the session."""
    plain.status = 15
    assert plain.reply_to(Message(F.GET_STATUS, 1, b"")) == (U64(15).pack(), ())


def test_a_refusal_is_marked() -> None:
    """The messages after it are the front-end's reaction."""
    recording = Recording()
    script = refusing(F.SET_VRING_NUM)
    service = RingService(script, Disk(), recording)
    made = Replies(script, BLK, service)
    assert made.reply_to(Message(F.SET_VRING_NUM, 9, bytes(8))) == (U64(1).pack(), ())
    assert made.reply_to(Message(F.SET_VRING_BASE, 9, bytes(8))) == (U64(0).pack(), ())
    assert recording.marks == [(0, "a refusal")]


@pytest.mark.parametrize(
    ("offset", "size", "known"), [(0, 60, True), (196, 60, True), (200, 60, False)]
)
def test_the_configuration_space_has_256_bytes(
    plain: Replies, offset: int, size: int, known: bool
) -> None:
    """Beyond it the reply is empty, which is an error."""
    asked = Config(offset, 0, bytes(size)).pack()
    payload, fds = plain.reply_to(Message(F.GET_CONFIG, 1, asked))
    space = BLK.config.ljust(256, b"\0")
    assert payload == (asked[:12] + space[offset : offset + size] if known else b"")
    assert fds == ()


def test_a_base_is_that_of_its_ring_and_is_recorded(plain: Replies) -> None:
    """The ring is stopped."""
    service = plain._service
    service.recording.messages.append(  # the message that asks for it
        None  # type: ignore[arg-type]
    )
    service.ring(1).next = 7
    kick = service.ring(1).kick = os.eventfd(0)
    payload, _ = plain.reply_to(Message(F.GET_VRING_BASE, 1, VringState(1, 0).pack()))
    assert payload == VringState(1, 7).pack()
    assert [(base.at, base.ring, base.base) for base in service.recording.bases] == [(0, 1, 7)]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kick)


def test_an_inflight_region_is_as_large_as_its_rings_need() -> None:
    """A second one takes the place of the first; the last is closed at the end."""
    made = replies()
    sizes: list[int] = []
    fds: list[int] = []
    for rings in (1, 4):
        payload, given = made.reply_to(
            Message(F.GET_INFLIGHT_FD, 1, Inflight(0, 0, rings, 64).pack())
        )
        region = Inflight.unpack(payload)
        assert (region.num_queues, region.queue_size, region.mmap_offset) == (rings, 64, 0)
        found = describe(given[0])
        assert (found.kind, found.size) == (MEMFD, region.mmap_size)
        assert made._service.recording.regions[-1] == (region, found)
        sizes.append(region.mmap_size)
        fds += given
    assert sizes[1] > sizes[0] > 64
    made.close()
    for fd in set(fds):
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
