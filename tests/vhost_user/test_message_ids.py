"""Ids that the world knows by heart."""

from __future__ import annotations

from vhost_user.message_ids import BackendRequest, FrontendRequest


def test_ids_of_the_specification() -> None:
    """A slip in the numbering would shift all that follow."""
    assert FrontendRequest.GET_VRING_BASE.value == 11
    assert FrontendRequest.SET_VRING_ENABLE.value == 18
    assert FrontendRequest.GET_CONFIG.value == 24
    assert FrontendRequest.RESET_DEVICE.value == 34
    assert FrontendRequest.CHECK_DEVICE_STATE.value == 43
    assert BackendRequest.VRING_HOST_NOTIFIER_MSG.value == 3
    assert BackendRequest.SHARED_OBJECT_LOOKUP.value == 8
