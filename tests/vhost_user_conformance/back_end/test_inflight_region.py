"""The in-flight region: where its parts are, and what a reply must have."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.puppet import Answer, Puppet
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import Inflight
from vhost_user_conformance.back_end.inflight_region import (
    HEADER,
    STATE,
    Region,
    get_region,
)
from vhost_user_conformance.model.verdict import Failed, Unsupported

if TYPE_CHECKING:
    from vhost_user_conformance.back_end.connection import BackEnd

PART = HEADER.size + STATE.size * 4


def back_end(message: Inflight, size: int) -> BackEnd:
    """One that answers GET_INFLIGHT_FD with this message, and a file of this size."""

    def answer(_payload: bytes) -> Answer:
        fd = os.memfd_create("region")
        os.ftruncate(fd, size)
        return message.pack(), (fd,)

    puppet = Puppet(0, 0, {F.GET_INFLIGHT_FD: answer})
    return puppet.back_end()


def test_parts_of_rings_are_separate() -> None:
    """Each has a header and the states of its descriptors."""
    region = Region(Inflight(2 * PART, 0, 2, 4), -1, memoryview(bytearray(2 * PART)))
    region.note({1: 5, 3: 7}, used=9, batch=2)
    region.link(3, 1)
    assert region.header() == (0, 1, 4, 2, 9)
    assert region.state(1) == (1, 0, 5)
    assert region.state(3) == (1, 1, 7)
    assert region.taken() == [1, 3]
    assert region.taken(ring=1) == []
    assert not any(region.view[PART:])


def test_a_reply_whose_file_is_too_small_fails() -> None:
    """The region would end beyond its file."""
    with closing(back_end(Inflight(4096, 0, 1, 64), 4096)) as be:
        assert len(get_region(be).view) == 4096
    with (
        closing(back_end(Inflight(4096, 4096, 1, 64), 4096)) as be,
        pytest.raises(Failed, match="8192 bytes in the file"),
    ):
        get_region(be)


def test_a_back_end_without_a_region_is_unsupported() -> None:
    """Its reply has size 0."""
    with closing(back_end(Inflight(0, 0, 1, 64), 0)) as be, pytest.raises(Unsupported):
        get_region(be)
