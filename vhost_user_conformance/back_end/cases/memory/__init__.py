"""VU-B-03xx: the memory table: what is mapped, what is replaced, what is refused."""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("memory", BACK_END, "Memory region description")
