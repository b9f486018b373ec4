"""What every back-end device offers."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from backends import advertised_features
from vhost_user import postcopy
from vhost_user.features import VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_VERSION_1, ProtocolFeature


def test_modern_devices_with_protocol_features() -> None:
    for bit in (VIRTIO_F_VERSION_1, VHOST_USER_F_PROTOCOL_FEATURES):
        assert advertised_features.FEATURES >> bit & 1


@pytest.mark.parametrize("possible", [False, True])
def test_postcopy_is_offered_where_the_host_allows_it(
    possible: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other features do not depend on the host."""
    monkeypatch.setattr(postcopy, "possible", lambda: possible)
    offered = advertised_features.protocol_features()
    assert (ProtocolFeature.PAGEFAULT in offered) is possible
    always = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK | ProtocolFeature.LOG_SHMFD
    assert always in offered
