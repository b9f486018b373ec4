"""Ids that the world knows by heart."""

from __future__ import annotations

from vhost_user.message_ids import BackendRequest, FrontendRequest


def test_ids_of_the_specification() -> None:
    """A slip in the numbering would shift all that follow."""
    assert FrontendRequest.GET_VRING_BASE == 11
    assert FrontendRequest.SET_VRING_ENABLE == 18
    assert FrontendRequest.GET_CONFIG == 24
    assert FrontendRequest.RESET_DEVICE == 34
    assert FrontendRequest.CHECK_DEVICE_STATE == 43
    assert BackendRequest.VRING_HOST_NOTIFIER_MSG == 3
    assert BackendRequest.SHARED_OBJECT_LOOKUP == 8
