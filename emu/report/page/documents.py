"""The shapes of the JSON documents that a page is made from (docs/reference/json.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS
from emu.json_input import Each, Map, Maybe, Members, Real
from emu.report.cells import size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emu.json_input import Shape
    from emu.qmp.protocol import JsonObject

#: Milliseconds: a year, in either direction.
_MS = Real(-3e10, 3e10)
HEAD: Mapping[str, Shape] = {
    "schema": int,
    "host": Map(object),
    "accel": str,
    "costs": str,
    "load": str,
    "control": str,
    "stop_policy": str,
    "stop_time_ms": _MS,
    "dirty_rate": int,
    "back_ends": Map(str),
}
VM = Members(
    {
        "vcpus": int,
        "memory_bytes": int,
        "devices": Each(Members({"class": str, "count": int, "rings": int})),
    }
)
_PHASE = Members(
    {
        "phase": str,
        "class": str,
        "wall_ms": _MS,
        "busy_ms": _MS,
        "count": int,
        "in_blackout": bool,
        "shared": bool,
    }
)
_TIMELINE = Members(
    {
        "phase": str,
        "class": str,
        "device": str,
        "start_ms": _MS,
        "end_ms": _MS,
        "busy_ms": _MS,
        "count": int,
        "in_blackout": bool,
    }
)
_COUNTERS = ("requests", "lost", "duplicated", "corrupted")
_PACKETS = ("packets_lost", "packets_duplicated", "packets_reordered")
_INTEGRITY = Members(dict.fromkeys((*_COUNTERS, *_PACKETS), int))
_RUN = Members(
    {
        "strategy": str,
        "repeat": int,
        "outcome": str,
        "downtime_ms": Maybe(_MS),
        "guest_gap_ms": Maybe(_MS),
        "network_gap_ms": Maybe(_MS),
        "stop_ms": Maybe(_MS),
        "start_ms": Maybe(_MS),
        "commits": int,
        "requests_in_flight_at_stop": int,
        "phases": Each(_PHASE),
        "precopy": Members({"rounds": int, "bytes": int, "ms": _MS}),
        "integrity": Maybe(_INTEGRITY),
    },
    {"error": str, "missed": str, "timeline": Each(_TIMELINE), "downtime_error_ms": _MS},
)
#: Members of the documents of some commands, and of those of a command that ended early.
_SOME: Mapping[str, Shape] = {"command": str, "not_run": int, "compared": Each(str)}
MIGRATIONS = Members({**HEAD, "vm": VM, "via": str, "network": str, "runs": Each(_RUN)}, _SOME)
_POINT = Members(
    {
        "devices": int,
        "rings": int,
        "strategy": str,
        "downtime_ms": _MS,
        "stop_ms": _MS,
        "start_ms": _MS,
    },
    {"shape": str, "accel": str},
)
SWEEP = Members({**HEAD, "points": Each(_POINT), "migrations": Each(MIGRATIONS)}, _SOME)


def devices_text(vm: JsonObject) -> str:
    """``16 NICs x 32 rings and 24 disks x 4 rings``."""
    parts = [f"{g['count']} {_noun(g)} x {g['rings']} rings" for g in vm["devices"]]
    return " and ".join(parts)


def _noun(group: JsonObject) -> str:
    kind = KINDS.get(group["class"])
    if kind is None:
        return f"{group['class']} devices"
    return kind.title if group["count"] == 1 else kind.plural


def host_facts(host: JsonObject) -> dict[str, str]:
    """The member ``host`` of a document, by the names on the page."""
    known = {name: value for name, value in host.items() if value is not None}
    if isinstance(known.get("memory_bytes"), int):
        known["memory"] = size(known.pop("memory_bytes"))
    names = {"cpus": "CPUs", "vhost_emu": "vhost-emu", "python": "Python"}
    return {f"host: {names.get(name, name)}": str(value) for name, value in known.items()}


def facts_of(document: JsonObject) -> dict[str, str]:
    """The host and the settings, by their names on the page."""
    facts = host_facts(document["host"])
    costs = document["costs"]
    facts |= {
        "accelerator": document["accel"],
        "costs": "native: nothing injected" if costs == "native" else f"{costs}: injected",
        "load": document["load"],
        "control": document["control"],
        "stop policy": document["stop_policy"],
    }
    if document["stop_time_ms"]:
        facts["back-ends stop in"] = f"{document['stop_time_ms']:g} ms"
    if document["dirty_rate"]:
        facts["dirty rate"] = f"{size(document['dirty_rate'])}/s"
    facts |= {f"back-ends of {name}": text for name, text in document["back_ends"].items()}
    return facts
