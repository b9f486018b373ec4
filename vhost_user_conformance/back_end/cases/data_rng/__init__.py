"""VU-B-26xx: requests to an entropy device."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("data_rng", BACK_END, "virtio 1.3, 5.4.6 Device Operation")
