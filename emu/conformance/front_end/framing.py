"""VU-F-01xx: headers, sizes and descriptors of what a front-end sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.conformance.case import FRONT_END, Area
from emu.conformance.front_end.tester import all_of

if TYPE_CHECKING:
    from emu.conformance.front_end.tester import FrontEnd

area = Area("framing", FRONT_END, "Header")


@area.case(101, "Each request has version 1")
def version(fe: FrontEnd) -> None:
    all_of(fe.plain().messages, lambda each: each.flags & 3 == 1, "flags with version 1")
