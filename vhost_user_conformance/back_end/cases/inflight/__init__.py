"""VU-B-12xx: the in-flight region."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("inflight", BACK_END, "Inflight I/O tracking", needs=("INFLIGHT_SHMFD",))
