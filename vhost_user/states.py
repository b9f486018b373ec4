"""The states of a vring, as data.

A ring has two independent bits: *started* (a kick starts it, GET_VRING_BASE stops it) and *enabled*
(SET_VRING_ENABLE). A back-end processes a ring while it is started; only if it is enabled may that
have effects: a network device with a ring that is started and disabled takes what the guest sends
and drops it. While a ring is stopped it keeps its enabled bit.

An event sets or clears bits, independently of the state. So `EFFECTS` is the whole state machine;
`TRANSITIONS` and the diagram in ``docs/reference/ring-states.md`` are made from it.
"""

from __future__ import annotations

from enum import IntFlag, StrEnum
from typing import NamedTuple

from vhost_user.trace_events import RING_STATE


class RingState(IntFlag):
    """The two bits of a ring. Both are clear at first (spec, "Ring states")."""

    NONE = 0
    STARTED = 1
    ENABLED = 2

    __hash__ = int.__hash__  # that of `Enum` is a Python function


class RingEvent(StrEnum):
    """What can change a ring's state."""

    KICK = "kick"
    GET_VRING_BASE = "GET_VRING_BASE"
    ENABLE = "SET_VRING_ENABLE 1"
    DISABLE = "SET_VRING_ENABLE 0"
    PLAIN_FEATURES = "SET_FEATURES without bit 30"
    RESET_OWNER = "RESET_OWNER"
    RESET_DEVICE = "RESET_DEVICE"
    STATUS_ZERO = "SET_STATUS 0"

    __hash__ = str.__hash__  # as for `RingState`


class Effect(NamedTuple):
    """What an event does to a ring.

    Attributes:
        sets: bits that are set afterwards.
        clears: bits that are clear afterwards.
        source: where that is specified.
    """

    sets: RingState
    clears: RingState
    source: str


_BOTH = RingState.STARTED | RingState.ENABLED

EFFECTS: dict[RingEvent, Effect] = {
    RingEvent.KICK: Effect(
        RingState.STARTED, RingState.NONE, "eae69cc36b: on the kick eventfd, or VRING_KICK in-band"
    ),
    RingEvent.GET_VRING_BASE: Effect(RingState.NONE, RingState.STARTED, "eae69cc36b"),
    RingEvent.ENABLE: Effect(RingState.ENABLED, RingState.NONE, "0647098d2e"),
    RingEvent.DISABLE: Effect(
        RingState.NONE, RingState.ENABLED, "0647098d2e: the ring is not stopped"
    ),
    RingEvent.PLAIN_FEATURES: Effect(
        RingState.ENABLED,
        RingState.NONE,
        "Ring states: without VHOST_USER_F_PROTOCOL_FEATURES there is no SET_VRING_ENABLE",
    ),
    RingEvent.RESET_OWNER: Effect(
        RingState.NONE, RingState.ENABLED, "deprecated: may be ignored, or disable all rings"
    ),
    RingEvent.RESET_DEVICE: Effect(RingState.NONE, _BOTH, "back to the initial state"),
    RingEvent.STATUS_ZERO: Effect(RingState.NONE, _BOTH, "with STATUS: a reset of the device"),
}

ALL_STATES = (
    RingState.NONE,
    RingState.ENABLED,
    RingState.STARTED,
    _BOTH,
)


def step(state: RingState, event: RingEvent) -> RingState:
    """The state after an event."""
    effect = EFFECTS[event]
    return (state | effect.sets) & ~effect.clears


#: Every (state, event) and the state after it.
TRANSITIONS: dict[tuple[RingState, RingEvent], RingState] = {
    (state, event): step(state, event) for state in ALL_STATES for event in RingEvent
}

#: The same for a loop over many rings: by event, the states after it, by the state before it.
AFTER: dict[RingEvent, tuple[RingState, ...]] = {
    event: tuple(step(RingState(bits), event) for bits in range(_BOTH + 1)) for event in RingEvent
}


def state_name(state: RingState) -> str:
    """``stopped, disabled`` and so on."""
    started = "started" if state & RingState.STARTED else "stopped"
    enabled = "enabled" if state & RingState.ENABLED else "disabled"
    return f"{started}, {enabled}"


class Ring:
    """One ring's state within a session."""

    __slots__ = ("device", "index", "state")

    def __init__(self, index: int, device: str = "") -> None:
        self.index = index
        self.device = device
        self.state = RingState.NONE

    @property
    def started(self) -> bool:
        """It was kicked, and no GET_VRING_BASE came since."""
        return RingState.STARTED in self.state

    @property
    def enabled(self) -> bool:
        """Processing it may have effects."""
        return RingState.ENABLED in self.state

    def apply(self, event: RingEvent) -> None:
        """Change the state by an event."""
        before = self.state
        self.state = AFTER[event][before]
        if RING_STATE.enabled and self.state != before:
            RING_STATE.emit(
                device=self.device,
                ring=self.index,
                event=event.name,
                state=state_name(self.state).replace(", ", ","),
            )

    def __repr__(self) -> str:
        return f"<Ring {self.index}: {state_name(self.state)}>"
