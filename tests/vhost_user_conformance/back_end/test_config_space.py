"""Reads of the configuration space: what a reply may be."""

from __future__ import annotations

import struct
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.puppet import Answer, Puppet
from vhost_user.messages import FrontendRequest as F
from vhost_user_conformance.back_end.config_space import asked, read, whole_of
from vhost_user_conformance.model.verdict import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.back_end.connection import BackEnd


def back_end(answer: Callable[[bytes], bytes]) -> BackEnd:
    """A disk that answers GET_CONFIG so."""

    def reply(payload: bytes) -> Answer:
        return answer(payload), ()

    puppet = Puppet(0, 0, {F.GET_CONFIG: reply})
    return puppet.back_end()


def test_a_request_has_as_many_zeroes_as_bytes_are_requested() -> None:
    """Or other data."""
    assert asked(4, 2) == struct.pack("=III", 4, 2, 0) + b"\0\0"
    assert asked(4, 2, flags=1, data=b"x") == struct.pack("=III", 4, 2, 1) + b"x"


def test_the_bytes_of_a_reply() -> None:
    """All that each disk has, for the whole space."""
    with closing(back_end(lambda payload: payload[:12] + b"\7" * (len(payload) - 12))) as be:
        assert read(be, 8, 4) == b"\7" * 4
        assert whole_of(be) == b"\7" * 36


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        (b"", "an empty reply"),
        (struct.pack("=III", 8, 4, 0) + bytes(3), "15 bytes"),
        (struct.pack("=III", 0, 4, 0) + bytes(4), "offset 0 and size 4"),
        (struct.pack("=III", 8, 3, 0) + bytes(4), "offset 8 and size 3"),
    ],
)
def test_a_wrong_reply_fails(reply: bytes, text: str) -> None:
    """Empty, of another size, or about other bytes."""
    with closing(back_end(lambda _: reply)) as be, pytest.raises(Failed, match=text):
        read(be, 8, 4)
