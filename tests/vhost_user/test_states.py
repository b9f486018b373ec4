"""Ring states: two independent bits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost_user.states import (
    AFTER,
    ALL_STATES,
    EFFECTS,
    TRANSITIONS,
    Ring,
    RingEvent,
    RingState,
    state_name,
)

BOTH = RingState.STARTED | RingState.ENABLED


def test_the_table_is_whole() -> None:
    """Each event has an effect in each state, and leads to a state."""
    assert set(EFFECTS) == set(RingEvent)
    assert len(TRANSITIONS) == len(ALL_STATES) * len(RingEvent)
    assert set(TRANSITIONS.values()) <= set(ALL_STATES)


@pytest.mark.parametrize(
    ("before", "event", "after"),
    [
        (RingState.NONE, RingEvent.KICK, RingState.STARTED),
        (RingState.ENABLED, RingEvent.KICK, BOTH),
        # The enabled bit survives a stop, so that the next kick makes the ring work again.
        (BOTH, RingEvent.GET_VRING_BASE, RingState.ENABLED),
        # Disabling does not stop.
        (BOTH, RingEvent.DISABLE, RingState.STARTED),
        (RingState.NONE, RingEvent.ENABLE, RingState.ENABLED),
        (RingState.NONE, RingEvent.PLAIN_FEATURES, RingState.ENABLED),
        (BOTH, RingEvent.RESET_DEVICE, RingState.NONE),
        (BOTH, RingEvent.STATUS_ZERO, RingState.NONE),
        (BOTH, RingEvent.RESET_OWNER, RingState.STARTED),
    ],
)
def test_transitions_of_the_specification(
    before: RingState, event: RingEvent, after: RingState
) -> None:
    """Those that are often implemented wrongly."""
    assert TRANSITIONS[before, event] == after


@given(st.lists(st.sampled_from(RingEvent)))
def test_a_ring_is_what_its_last_events_made_it(events: list[RingEvent]) -> None:
    """Started depends only on the last event that changes it, and so does enabled."""
    ring = Ring(3)
    for event in events:
        ring.apply(event)
    assert ring.started == _last(events, RingState.STARTED)
    assert ring.enabled == _last(events, RingState.ENABLED)


def _last(events: list[RingEvent], bit: RingState) -> bool:
    for event in reversed(events):
        effect = EFFECTS[event]
        if bit in effect.sets or bit in effect.clears:
            return bit in effect.sets
    return False


def test_names_for_people() -> None:
    """They appear in errors and in the diagram."""
    assert state_name(RingState.ENABLED) == "stopped, enabled"
    assert repr(Ring(2)) == "<Ring 2: stopped, disabled>"


@pytest.mark.parametrize("event", RingEvent)
def test_the_states_after_an_event_are_those_of_the_table(event: RingEvent) -> None:
    """By the bits of the state before, for loops over many rings."""
    assert [AFTER[event][state] for state in ALL_STATES] == [
        TRANSITIONS[state, event] for state in ALL_STATES
    ]
