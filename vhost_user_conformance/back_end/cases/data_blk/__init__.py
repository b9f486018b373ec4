"""VU-B-21xx: requests of a disk."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("data_blk", BACK_END, "virtio 1.3, 5.2.6 Device Operation")
