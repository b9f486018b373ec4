"""The message table is complete and consistent."""

from __future__ import annotations

import pytest

from vhost_user.backend_session import BackendSession
from vhost_user.features import DIALECTS, RUST_VMM, SPEC, YC_LIBVHOST, ProtocolFeature
from vhost_user.frontend_session import FrontendSession
from vhost_user.message_spec import Effect, FdRule, MessageSpec, ReplyRule
from vhost_user.messages import (
    BACKEND_MESSAGES,
    FRONTEND_MESSAGES,
    BackendRequest,
    FrontendRequest,
    frontend_messages,
    wire_name,
)
from vhost_user.payload_layout import SHAPES

EVERY_ROW = [*FRONTEND_MESSAGES.values(), *BACKEND_MESSAGES.values()]


def test_all_ids_are_there() -> None:
    """45 front-end and 10 back-end messages, numbered from 1."""
    assert list(FRONTEND_MESSAGES) == list(range(1, 46)) == list(FrontendRequest)
    assert list(BACKEND_MESSAGES) == list(range(1, 11)) == list(BackendRequest)


@pytest.mark.parametrize("row", EVERY_ROW, ids=lambda row: row.name)
def test_a_row_is_consistent(row: MessageSpec) -> None:
    """A reply has a payload rule if there is one, and every gate names a feature."""
    assert all(kind in SHAPES for kind in row.payload)
    assert bool(row.reply_payload) == (row.reply is not ReplyRule.ACK)
    assert row.reply_fds is FdRule.NONE or row.reply is not ReplyRule.ACK
    if row.gate.protocol:
        assert SPEC.protocol_feature(row.gate.protocol) is not None


def test_what_has_a_reply_of_its_own() -> None:
    """The list of the specification, and what peers do where it is incomplete."""
    always = {row.id for row in FRONTEND_MESSAGES.values() if row.reply is ReplyRule.ALWAYS}
    assert always == {1, 11, 15, 17, 22, 24, 26, 28, 29, 30, 31, 36, 40, 41, 42, 43, 44, 45}


def test_what_carries_descriptors() -> None:
    """As the specification lists them."""
    carriers = {row.id for row in FRONTEND_MESSAGES.values() if row.fds is not FdRule.NONE}
    assert carriers == {5, 6, 7, 12, 13, 14, 21, 32, 33, 37, 38, 42}


def test_an_id_whose_meaning_depends_on_the_dialect() -> None:
    """GET_VRING_BASE_SKIP_DRAIN is 45, and 44 in yc-libvhost-server; vhost 0.16 lacks it."""
    assert wire_name(44) == "GET_SHMEM_CONFIG"
    assert wire_name(44, YC_LIBVHOST) == "GET_VRING_BASE_SKIP_DRAIN"
    assert wire_name(45) == "GET_VRING_BASE_SKIP_DRAIN"
    assert wire_name(45, YC_LIBVHOST) == wire_name(45, RUST_VMM) == "message 45"
    assert wire_name(99) == "message 99"
    for dialect in DIALECTS.values():
        rows = frontend_messages(dialect)
        assert {number: row.name for number, row in rows.items() if number > 43} == dialect.messages


@pytest.mark.parametrize("row", EVERY_ROW, ids=lambda row: row.name)
def test_a_member_has_its_own_row(row: MessageSpec) -> None:
    """Number and name in the table are those of the member."""
    member = (
        FrontendRequest(row.id) if row in FRONTEND_MESSAGES.values() else BackendRequest(row.id)
    )
    assert member.spec is row
    assert (member.value, member.name) == (row.id, row.name)


def test_ids_of_the_specification() -> None:
    """A slip in the numbering would shift all that follow."""
    assert FrontendRequest.GET_VRING_BASE.value == 11
    assert FrontendRequest.SET_VRING_ENABLE.value == 18
    assert FrontendRequest.GET_CONFIG.value == 24
    assert FrontendRequest.RESET_DEVICE.value == 34
    assert FrontendRequest.CHECK_DEVICE_STATE.value == 43
    assert BackendRequest.VRING_HOST_NOTIFIER_MSG.value == 3
    assert BackendRequest.SHARED_OBJECT_LOOKUP.value == 8


@pytest.mark.parametrize("effect", Effect)
def test_an_effect_has_a_row_and_a_method_at_each_end(effect: Effect) -> None:
    """Nothing else connects an effect to what it does."""
    assert any(effect in (row.effect, row.reply_effect) for row in EVERY_ROW)
    assert callable(FrontendSession("net0").effect_method(effect))
    back = BackendSession("net0", features=0, protocol_features=ProtocolFeature(0), num_queues=1)
    assert callable(back.effect_method(effect))
