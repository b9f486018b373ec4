"""Rings work whatever the order of the messages that set them up."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.backends.rig import ALL_PROTOCOL_FEATURES, QEMU_ORDER, RigRing
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import MemTable

if TYPE_CHECKING:
    from tests.backends.contract.given import MakeRig
    from tests.backends.rig import Rig
    from tests.backends.served import Kind, Served

#: With PAGEFAULT a table of no region is the acknowledgement of postcopy.
NO_POSTCOPY = ALL_PROTOCOL_FEATURES & ~ProtocolFeature.PAGEFAULT
EVENT_IDX = 1 << 29
LOG_ALL = 1 << 26
#: What is permuted: these messages of the device, and those of each ring. Kicks follow.
DEVICE = (F.SET_FEATURES, F.SET_MEM_TABLE, F.SET_LOG_BASE)
_MOST_RINGS = 4


@st.composite
def orders(draw: st.DrawFn) -> list[tuple[int | None, F]]:
    """All set-up messages of a device of `_MOST_RINGS` rings in a valid order: (ring, message)."""
    messages: list[tuple[int | None, F]] = [(None, message) for message in DEVICE]
    messages += [(ring, message) for ring in range(_MOST_RINGS) for message in QEMU_ORDER]
    order = draw(st.permutations(messages))
    # SET_VRING_ENABLE needs VHOST_USER_F_PROTOCOL_FEATURES, which SET_FEATURES negotiates.
    features = order.index((None, F.SET_FEATURES))
    early = [one for one in order[:features] if one[1] is F.SET_VRING_ENABLE]
    rest = [one for one in order[:features] if one[1] is not F.SET_VRING_ENABLE]
    return [*rest, order[features], *early, *order[features + 1 :]]


#: The addresses come before the features, which have the event index enlarge the rings.
_EARLY: list[tuple[int | None, F]] = [
    (None, F.SET_MEM_TABLE),
    *((ring, message) for ring in range(_MOST_RINGS) for message in QEMU_ORDER[:-1]),
    (None, F.SET_FEATURES),
    *((ring, F.SET_VRING_ENABLE) for ring in range(_MOST_RINGS)),
]


def send(rig: Rig, order: list[tuple[int | None, F]]) -> None:
    """Send the messages in this order, each acknowledged."""
    for ring, message in order:
        if ring is not None:
            if ring < len(rig.rings):
                rig.rings[ring].set_up([message])
        elif message is F.SET_FEATURES:
            rig.set_features()
        elif message is F.SET_LOG_BASE:
            rig.set_log(features=False)
        else:
            rig.set_mem_table()


@example(order=_EARLY, event_idx=True, empty=False)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(order=orders(), event_idx=st.booleans(), empty=st.booleans())
def test_any_order_of_the_set_up_messages(
    kind: Kind,
    device: Served,
    make_rig: MakeRig,
    order: list[tuple[int | None, F]],
    *,
    event_idx: bool,
    empty: bool,
) -> None:
    """On one device, front-end after front-end; also with a memory table of no region at first."""
    features = ((1 << 64) - 1) & ~LOG_ALL & ~(0 if event_idx else EVENT_IDX)
    rig = make_rig(device.connect(), features=features, protocol_features=NO_POSTCOPY)
    with contextlib.closing(rig.connection):  # the next front-end waits for it
        if empty:
            rig.ack(F.SET_MEM_TABLE, MemTable(()))
        send(rig, order)
        for ring in rig.rings:
            ring.kick()
        kind.prepare(rig)
        for number in range(3):
            kind.work(rig, number)


def test_memory_that_goes_away_and_comes_back(
    kind: Kind, device: Served, make_rig: MakeRig
) -> None:
    """SET_MEM_TABLE of no region takes all memory away; the rings work on in the next table."""
    running = make_rig(device.connect(), protocol_features=NO_POSTCOPY).start()
    kind.prepare(running)
    kind.work(running, 1)
    running.ack(F.SET_MEM_TABLE, MemTable(()))
    ring: RigRing = running.rings[kind.ring]
    assert ring.idle()
    running.set_mem_table()
    kind.replenish(running)
    kind.work(running, 2)
