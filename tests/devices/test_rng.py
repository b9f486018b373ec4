"""An entropy device at the front-end, against a real back-end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.control import ControlOptions
from devices.rng import VhostUserRng
from tests.backends.served import KINDS, Served
from vhost_user.features import VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, ProtocolFeature

if TYPE_CHECKING:
    from pathlib import Path


def test_it_negotiates_ring_features_and_the_inflight_region(tmp_path: Path) -> None:
    """A back-end that offers no region is used without."""
    served = Served(KINDS["rng"](), tmp_path, ControlOptions())
    device = VhostUserRng("rng0", [0x1000], [0])
    device.connect(served.path)
    assert device.has_feature(VIRTIO_F_VERSION_1)
    assert device.has_feature(VIRTIO_RING_F_EVENT_IDX)
    offered = served.device.protocol_features
    negotiated = device.connection.protocol_features
    assert ProtocolFeature.INFLIGHT_SHMFD in VhostUserRng.wanted_protocol_features
    assert (ProtocolFeature.INFLIGHT_SHMFD in negotiated) is (
        ProtocolFeature.INFLIGHT_SHMFD in offered
    )
    assert ProtocolFeature.CONFIG not in negotiated
    device.close()
    served.close()
