"""The state of one ring."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import os
from functools import partial

from devices.vring import Vring
from vhost_user.virtqueue import RingAddresses

ADDRESSES = RingAddresses(128, 0x1000, 0x2000, 0x3000)


def test_a_stopped_ring_keeps_its_base_and_its_addresses() -> None:
    ring = Vring(0, 0x10, 0, -1, -1)
    ring.set_up(ADDRESSES)
    ring.mark_started()
    ring.mark_stopped(7)
    assert (ring.addresses, ring.base, ring.started, ring.ran) == (ADDRESSES, 7, False, True)


def test_a_reset_ring_has_no_addresses_and_begins_anew() -> None:
    ring = Vring(0, 0x10, 0, -1, -1)
    ring.set_up(ADDRESSES, 7)
    ring.set_up(None)
    assert (ring.addresses, ring.base) == (None, 0)


def test_another_back_end_takes_the_buffers_again_that_one_holds() -> None:
    """Until the ring is stopped again, or set up again."""
    ring = Vring(0, 0x10, 0, -1, -1)
    ring.set_up(ADDRESSES)
    for end in (partial(ring.mark_stopped, 1), partial(ring.set_up, ADDRESSES, 1)):
        ring.mark_stopped(1)
        ring.held = 3
        assert (ring.base, ring.base_elsewhere) == (1, 0xFFFE)
        end()
        assert ring.base_elsewhere == 1


def test_the_eventfds_of_another_process_get_the_numbers_of_its_own() -> None:
    own = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    others = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2)]
    ring = Vring(0, 0x10, 0, kick_fd=own[0], call_fd=own[1])
    ring.take_eventfds(*others)
    assert [ring.kick_fd, ring.call_fd] == own
    for value, (mine, theirs) in enumerate(zip(own, others, strict=True), 1):
        os.eventfd_write(theirs, value)
        assert os.eventfd_read(mine) == value
    for fd in own + others:
        os.close(fd)
