"""Cases about the state of devices, on recordings that were made by hand."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from vhost_user.payloads import U64, VringState
from vhost_user_conformance.front_end.acts import LOG
from vhost_user_conformance.front_end.cases.device_state import area
from vhost_user_conformance.front_end.descriptors import EVENTFD, PIPE, Descriptor
from vhost_user_conformance.front_end.recording import F, Received, Recording
from vhost_user_conformance.front_end.tester import FrontEnd
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.model.verdict import Failed, Unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.script import Script

Sent = tuple[F, bytes, tuple[Descriptor, ...]]
KICK: Sent = (F.SET_VRING_KICK, U64(0).pack(), ())
STOP: Sent = (F.GET_VRING_BASE, VringState(0, 0).pack(), ())
CHECK: Sent = (F.CHECK_DEVICE_STATE, b"", ())
PIPE_END = (Descriptor(PIPE, "1:1", 0),)


def save(direction: int = 0, phase: int = 0, fds: tuple[Descriptor, ...] = PIPE_END) -> Sent:
    """A request for a transfer."""
    return (F.SET_DEVICE_STATE_FD, struct.pack("=II", direction, phase), fds)


GOOD = (KICK, STOP, save(), CHECK)


def judge(number: int, *messages: Sent) -> None:
    """Run the case on a front-end that has sent these."""
    recording = Recording()
    for at, (id_, payload, fds) in enumerate(messages):
        recording.messages.append(
            Received(at, LOG, id_, 1, payload, fds, features=0, protocol=0, followed=False, line=at)
        )

    def play(_script: Script) -> Recording:
        return recording

    (case,) = [case for case in area.cases if case.id == f"VU-F-{number}"]
    case.run(FrontEnd(row_of("fs"), 1.0, play))


@pytest.mark.parametrize("number", [1501, 1502, 1503, 1504, 1505])
def test_a_front_end_that_does_it_right(number: int) -> None:
    """Passes; one that transfers nothing is not judged."""
    judge(number, *GOOD)
    with pytest.raises(Unsupported):
        judge(number, KICK, STOP)


@pytest.mark.parametrize(
    ("number", "messages"),
    [
        (1501, (KICK, save(), CHECK)),
        (1501, (KICK, STOP, KICK, save(), CHECK)),
        (1502, (save(phase=1), CHECK)),
        (1503, (save(direction=2), CHECK)),
        (1504, (save(fds=()), CHECK)),
        (1504, (save(fds=(Descriptor(EVENTFD, "e", 0),)), CHECK)),
        (1505, (save(),)),
        (1505, (save(), save(), CHECK)),
        (1505, (CHECK, save())),
    ],
)
def test_a_front_end_that_does_it_wrong(number: int, messages: tuple[Sent, ...]) -> None:
    """Fails."""
    with pytest.raises(Failed):
        judge(number, *messages)
