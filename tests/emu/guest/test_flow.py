"""The counters of a flow."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import pytest

from emu.guest import flow as word
from emu.guest.flow import Flow

PAIR = 3


@pytest.fixture
def flow() -> Flow:
    """A flow that has sent 100 packets."""
    made = Flow(memoryview(bytearray(8 * word.WORDS)).cast("Q"))
    made.words[word.NEXT] = 100
    return made


def counts(flow: Flow) -> tuple[int, int, int, int]:
    words = flow.words
    return words[word.RECEIVED], flow.lost(), words[word.DUPLICATED], words[word.REORDERED]


def test_in_order(flow: Flow) -> None:
    for sequence in range(100):
        assert flow.outstanding() == 100 - sequence
        flow.arrived(sequence, PAIR)
    assert counts(flow) == (100, 0, 0, 0)
    assert flow.outstanding() == 0


def test_a_gap_is_a_loss_until_the_packet_comes(flow: Flow) -> None:
    flow.arrived(0, PAIR)
    flow.arrived(3, PAIR)
    assert counts(flow) == (2, 2, 0, 0)
    flow.arrived(1, PAIR)
    assert counts(flow) == (3, 1, 0, 1)
    assert flow.outstanding() == 96


def test_only_a_number_seen_twice_is_a_duplicate(flow: Flow) -> None:
    for sequence in (0, 1, 2, 1, 5, 4, 4, 3, 5):
        flow.arrived(sequence, PAIR)
    assert counts(flow) == (6, 0, 3, 2)


def test_there_is_no_order_between_queues(flow: Flow) -> None:
    """A late packet is reordered only on the pair of the packet that came before it."""
    flow.arrived(0, PAIR)
    flow.arrived(3, PAIR + 1)
    flow.arrived(1, PAIR)
    assert counts(flow) == (3, 1, 0, 0)
    flow.arrived(2, PAIR + 1)
    assert counts(flow) == (4, 0, 0, 1)
    flow.arrived(2, PAIR)
    assert counts(flow) == (4, 0, 1, 1)


def test_what_is_older_than_the_window_cannot_be_new(flow: Flow) -> None:
    flow.arrived(80, PAIR)
    flow.arrived(80 - 63, PAIR)
    flow.arrived(80 - 64, PAIR)
    assert counts(flow) == (2, 79, 1, 1)


def test_given_up_packets_are_lost_until_they_come(flow: Flow) -> None:
    flow.arrived(97, PAIR)
    flow.give_up()
    assert flow.outstanding() == 0
    assert flow.lost() == 99
    flow.arrived(98, PAIR)
    flow.arrived(99, PAIR)
    assert counts(flow) == (3, 97, 0, 0)
    flow.words[word.NEXT] = 102
    assert flow.outstanding() == 2


def test_a_packet_that_was_never_sent_is_damaged(flow: Flow) -> None:
    flow.arrived(100, PAIR)
    assert counts(flow) == (0, 0, 0, 0)
    assert flow.words[word.CORRUPTED] == 1
