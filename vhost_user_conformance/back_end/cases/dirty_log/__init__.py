"""VU-B-08xx: the dirty log."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("dirty_log", BACK_END, "Migration", needs=("LOG_SHMFD",))
