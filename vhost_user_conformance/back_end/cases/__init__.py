"""The cases for back-ends: a module or a folder for each area, all of which are collected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.model.catalogue import cases_of, collect_areas

if TYPE_CHECKING:
    from vhost_user_conformance.model.case import Case

#: The areas, in the order in which their cases run.
ORDER = (
    "framing",
    "negotiation",
    "memory",
    "rings",
    "notifications",
    "bases",
    "reply_ack",
    "dirty_log",
    "config",
    "memory_slots",
    "multi_queue",
    "inflight",
    "data_blk",
    "data_net",
    "data_rng",
    "channel",
    "status",
    "device_state",
    "postcopy",
    "errors",
    "resources",
    "pipelining",
    "timing",
    "optional",
    "scripts",
    "program",
)
AREAS = collect_areas(__name__, __path__, ORDER)


def cases() -> list[Case]:
    """All cases, by id."""
    return cases_of(AREAS)
