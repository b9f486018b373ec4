"""Scripts of the suite's back-end: what they offer, and which one a message needs."""

from __future__ import annotations

import pytest

from vhost_user.features import SPEC, VHOST_F_LOG_ALL, ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user_conformance.front_end.script import (
    COMMON_FEATURES,
    COMMON_PROTOCOL,
    PLAIN,
    RESETTING,
    SLOTS,
    STATUS,
    Script,
    occasion,
    refusing,
)
from vhost_user_conformance.model.case import FRONT_END
from vhost_user_conformance.model.device_class import (
    DEVICE_CLASSES,
    UNKNOWN,
    DeviceClass,
    row_of,
)
from vhost_user_conformance.target import cases_of

ROWS = [*DEVICE_CLASSES.values(), UNKNOWN]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name or "unknown")
def test_a_correct_back_end_offers_what_its_class_has(row: DeviceClass) -> None:
    """Besides what every back-end offers."""
    assert PLAIN.features(row) == COMMON_FEATURES | row.feature_mask
    own = sum(int(ProtocolFeature[name]) for name in row.protocol_features)
    assert PLAIN.protocol(row) == int(COMMON_PROTOCOL) | own


def test_a_script_may_offer_more_and_less() -> None:
    """What is left out counts last."""
    log, bit = 1 << VHOST_F_LOG_ALL, 1 << 40
    script = Script("x", without=log | 1 << 41, offering=bit | 1 << 41)
    assert script.features(UNKNOWN) == COMMON_FEATURES & ~log | bit
    ack, status = int(ProtocolFeature.REPLY_ACK), int(ProtocolFeature.STATUS)
    script = Script("x", protocol_without=ack, protocol_offering=status)
    assert script.protocol(UNKNOWN) & (ack | status) == status


@pytest.mark.parametrize(
    ("number", "script"),
    [
        (F.ADD_MEM_REG, SLOTS),
        (F.GET_STATUS, STATUS),
        (F.RESET_DEVICE, RESETTING),
        (F.SET_OWNER, PLAIN),
    ],
)
def test_the_session_in_which_a_message_may_be_sent(number: F, script: Script) -> None:
    """Its gate is offered there."""
    assert occasion(number) is script


def test_a_refusal_has_a_script_of_its_own() -> None:
    """Cases about the same message share it."""
    script = refusing(F.SET_VRING_NUM)
    assert script == refusing(F.SET_VRING_NUM) != refusing(F.SET_VRING_BASE)
    assert script.refuses == F.SET_VRING_NUM


def test_each_case_can_run_on_some_front_end() -> None:
    """What it needs is offered in the plain session, by which a front-end is asked for it."""
    for case in cases_of(FRONT_END):
        rows = [row_of(case.device)] if case.device else [*DEVICE_CLASSES.values(), UNKNOWN]
        masks = [SPEC.protocol_feature(name) or ProtocolFeature(0) for name in case.needs]
        assert any(all(int(mask) & PLAIN.protocol(row) for mask in masks) for row in rows), case.id
