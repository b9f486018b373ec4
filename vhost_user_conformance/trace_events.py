"""Trace events of the suite: its cases, and the messages of their connections."""

from __future__ import annotations

from vhost_user.tracing import event

CASE = event(
    "conformance_case",
    *("case", "area", "verdict", "start_ns", "us"),
    help="The suite has run a case; `start_ns` is its beginning on the clock of the lines, `us` "
    "its microseconds.",
)
MESSAGE = event(
    "conformance_message",
    *("sender", "message"),
    help="The suite sends or receives a message, with its fields.",
)
