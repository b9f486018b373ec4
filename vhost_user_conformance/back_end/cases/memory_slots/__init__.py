"""VU-B-10xx: memory slots."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("memory_slots", BACK_END, "VHOST_USER_ADD_MEM_REG", needs=("CONFIGURE_MEM_SLOTS",))
