"""VU-B-18xx: descriptors, mappings and threads that a back-end holds and releases.

They are counted from outside, so that the suite has to have started the program. A back-end may
release them a little later, and may keep some for the next time: the number may not grow with each
repetition.
"""

from __future__ import annotations

from vhost_user_conformance.model.case import BACK_END, Area

area = Area("resources", BACK_END, "Memory region description")
