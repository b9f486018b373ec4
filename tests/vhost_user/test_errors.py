"""Errors name device, ring and message, as far as they are known."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import pytest

from vhost_user.errors import (
    BackendError,
    DeadlineError,
    Disconnected,
    FrontendError,
    ProtocolError,
    Refused,
    UsageError,
    VhostUserError,
)


@pytest.mark.parametrize(
    ("device", "ring", "message", "text"),
    [
        (None, None, None, "text"),
        ("blk0", None, None, "blk0: text"),
        ("blk0", 0, None, "blk0, ring 0: text"),
        ("blk0", 3, "GET_VRING_BASE", "blk0, ring 3, GET_VRING_BASE: text"),
        (None, None, "SET_OWNER", "SET_OWNER: text"),
    ],
)
@pytest.mark.parametrize("kind", [UsageError, FrontendError, BackendError, Disconnected])
def test_what_is_known_is_in_front(
    kind: type[VhostUserError], device: str | None, ring: int | None, message: str | None, text: str
) -> None:
    assert str(kind("text", device=device, ring=ring, message=message)) == text


def test_a_refusal_is_the_back_ends_and_has_its_code() -> None:
    error = Refused(22, device="blk0", message="SET_CONFIG")
    assert str(error) == "blk0, SET_CONFIG: refused with code 22"
    assert error.code == 22
    assert isinstance(error, BackendError)
    assert not isinstance(error, FrontendError)
    assert isinstance(error, ProtocolError)


def test_a_timeout_has_its_seconds() -> None:
    error = DeadlineError("a reply", 1.25, device="net0", message="GET_FEATURES")
    assert str(error) == "net0, GET_FEATURES: waited 1.25 s for a reply"
    assert error.waited == 1.25
