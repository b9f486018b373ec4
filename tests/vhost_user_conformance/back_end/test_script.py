"""Scripts of front-ends, and the messages that they give."""

from __future__ import annotations

from vhost_user_conformance.back_end.script import (
    EVERY,
    USED,
    F,
    P,
    Rings,
    Step,
    messages_of,
)

RINGS = {USED: [0, 1], EVERY: [0, 1, 2]}


def expanded(
    *parts: Step | Rings, negotiated: P = P.REPLY_ACK
) -> list[tuple[str, int | None, bool]]:
    """The messages of the parts, in short."""
    planned = messages_of(parts, RINGS, negotiated=negotiated, bit_30=True)
    return [(each.step.id.name, each.ring, each.need_reply) for each in planned]


def test_messages_are_sent_ring_by_ring() -> None:
    """And a single message is sent for each ring."""
    num, base = Step(F.SET_VRING_NUM), Step(F.SET_VRING_BASE)
    together = [(name, ring) for name, ring, _ in expanded(Rings((num, base)))]
    assert together == [
        ("SET_VRING_NUM", 0),
        ("SET_VRING_BASE", 0),
        ("SET_VRING_NUM", 1),
        ("SET_VRING_BASE", 1),
    ]
    assert [ring for _, ring, _ in expanded(Rings((num,), EVERY))] == [0, 1, 2]
    assert [ring for _, ring, _ in expanded(Rings((num,), (2, 3)))] == [2, 3]


def test_messages_without_their_feature_are_omitted() -> None:
    """Nor is a message that another feature replaces."""
    steps = (Step(F.GET_STATUS), Step(F.SET_MEM_TABLE, unless=P.CONFIGURE_MEM_SLOTS))
    assert [name for name, _, _ in expanded(*steps)] == ["SET_MEM_TABLE"]
    slots = P.CONFIGURE_MEM_SLOTS | P.STATUS
    assert [name for name, _, _ in expanded(*steps, negotiated=slots)] == ["GET_STATUS"]
    enable = Rings((Step(F.SET_VRING_ENABLE),))
    assert list(messages_of([enable], RINGS, negotiated=P(0), bit_30=False)) == []


def test_acknowledgements_and_what_stands_for_them() -> None:
    """Without REPLY_ACK a request follows that always has a reply."""
    step = Step(F.SET_FEATURES, ack=True, barrier=True)
    assert expanded(step) == [("SET_FEATURES", None, True)]
    assert expanded(step, negotiated=P(0)) == [
        ("SET_FEATURES", None, False),
        ("GET_FEATURES", None, False),
    ]
