"""Rows of the message table: how a gate is described, and what a row says by default."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from vhost_user.message_spec import Effect, FdRule, Gate, MessageSpec, ReplyRule


@pytest.mark.parametrize(
    ("gate", "text"),
    [
        (Gate(), "none"),
        (Gate("REPLY_ACK"), "REPLY_ACK"),
        (Gate(feature=30), "feature bit 30 negotiated"),
        (Gate(feature=30, offered=True), "feature bit 30 offered"),
        (Gate(feature=0), "feature bit 0 negotiated"),
    ],
)
def test_a_gate_is_described(gate: Gate, text: str) -> None:
    """As the document of messages has it."""
    assert str(gate) == text


def test_a_row_that_says_nothing_may_always_be_sent_and_changes_nothing() -> None:
    row = MessageSpec()
    assert (row.payload, row.fds, row.reply) == ((), FdRule.NONE, ReplyRule.ACK)
    assert (row.gate, row.effect, row.reply_effect) == (Gate(), None, None)
    assert not row.unsupported


@pytest.mark.parametrize("rule", [FdRule, ReplyRule, Effect])
def test_each_rule_has_a_text_of_its_own(rule: type[FdRule | ReplyRule | Effect]) -> None:
    """Two members with one text would be one member."""
    assert len({member.value for member in rule}) == len(rule.__members__)
