"""The message table is whole and consistent with itself."""

from __future__ import annotations

import pytest

from vhost_user.features import DIALECTS, SPEC, YC_LIBVHOST
from vhost_user.messages import (
    BACKEND_MESSAGES,
    FRONTEND_MESSAGES,
    BackendRequest,
    FdRule,
    FrontendRequest,
    MessageSpec,
    ReplyRule,
    frontend_messages,
    wire_name,
)
from vhost_user.payloads import SHAPES

EVERY_ROW = [*FRONTEND_MESSAGES.values(), *BACKEND_MESSAGES.values()]


def test_all_ids_are_there() -> None:
    """44 front-end and 10 back-end messages, numbered from 1."""
    assert list(FRONTEND_MESSAGES) == list(range(1, 45)) == list(FrontendRequest)
    assert list(BACKEND_MESSAGES) == list(range(1, 11)) == list(BackendRequest)


@pytest.mark.parametrize("row", EVERY_ROW, ids=lambda row: row.name)
def test_a_row_is_consistent(row: MessageSpec) -> None:
    """Replies are drawn where there are some, and every name means something."""
    assert all(kind in SHAPES for kind in row.payload)
    assert bool(row.reply_payload) == (row.reply is not ReplyRule.ACK)
    assert row.reply_fds is FdRule.NONE or row.reply is not ReplyRule.ACK
    assert row.implemented == (row.refusal == "")
    if row.gate.protocol:
        assert SPEC.protocol_feature(row.gate.protocol) is not None


def test_what_has_a_reply_of_its_own() -> None:
    """The list of the specification, and what peers do where it has holes."""
    always = {row.id for row in FRONTEND_MESSAGES.values() if row.reply is ReplyRule.ALWAYS}
    assert always == {1, 11, 15, 17, 22, 24, 26, 28, 29, 30, 31, 36, 40, 41, 42, 43, 44}


def test_what_carries_descriptors() -> None:
    """As the specification lists them."""
    carriers = {row.id for row in FRONTEND_MESSAGES.values() if row.fds is not FdRule.NONE}
    assert carriers == {5, 6, 7, 12, 13, 14, 21, 32, 33, 37, 38, 42}


def test_an_id_whose_meaning_depends_on_the_dialect() -> None:
    """Id 44 is GET_SHMEM_CONFIG, but not in yc-libvhost-server."""
    assert wire_name(44) == "GET_SHMEM_CONFIG"
    assert wire_name(44, YC_LIBVHOST) == "GET_VRING_BASE_SKIP_DRAIN"
    assert wire_name(99) == "message 99"
    for dialect in DIALECTS.values():
        assert frontend_messages(dialect)[44].name == dialect.messages[44]
