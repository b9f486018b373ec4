"""The reply to SET_DEVICE_STATE_FD: bit 8, an error, and its descriptor."""

from __future__ import annotations

import os

import pytest

from vhost_user.codec import REPLY, VERSION
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import VRING_NO_FD
from vhost_user_conformance.back_end.state_transfer import answer, request
from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.wire import Message


def reply(value: int, fds: int = 0) -> Message:
    """A reply of this number with so many descriptors."""
    owned = tuple(os.eventfd(0) for _ in range(fds))
    flags = VERSION | REPLY
    return Message(F.SET_DEVICE_STATE_FD, flags, value.to_bytes(8, "little"), owned)


def test_a_request_has_direction_and_phase() -> None:
    """4 bytes each."""
    assert request(1) == b"\1\0\0\0" + bytes(4)


@pytest.mark.parametrize(
    ("value", "fds", "error"), [(VRING_NO_FD, 0, 0), (0, 1, 0), (VRING_NO_FD | 5, 0, 5)]
)
def test_a_valid_reply_gives_its_error(value: int, fds: int, error: int) -> None:
    """0 for none."""
    message = reply(value, fds)
    assert answer(message) == error
    message.close()


@pytest.mark.parametrize(("value", "fds"), [(VRING_NO_FD, 1), (0, 0), (0, 2), (5, 1)])
def test_a_descriptor_must_agree_with_bit_8(value: int, fds: int) -> None:
    """And there is none with an error."""
    message = reply(value, fds)
    with pytest.raises(Failed):
        answer(message)
    message.close()
