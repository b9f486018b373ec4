"""VU-B-22xx: frames and messages of a NIC."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("data_net", BACK_END, "virtio 1.3, 5.1.6 Device Operation")
