"""VU-B-09xx: the device's configuration space."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("config", BACK_END, "VHOST_USER_GET_CONFIG", needs=("CONFIG",))
