"""The output of `emu top`: the devices of a running VM, as its monitor describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from emu.report.cells import count, counted, new_table, size
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from emu.qmp.protocol import JsonObject

#: The counters whose rates are shown.
COUNTERS = ("completed", "kicks", "calls")
#: Columns of a device's name.
_NAME_WIDTH = 12
#: Characters of a text of the monitor.
_MAX_TEXT = 400


@dataclass(frozen=True, slots=True)
class TopSample:
    """What a monitor has returned at one moment.

    Attributes:
        status: of the VM, such as ``running``.
        migration: the result of query-migrate.
        now_ns: CLOCK_MONOTONIC of the VM's process.
        devices: of x-query-devices; empty before the VM is built.
    """

    status: str
    migration: JsonObject
    now_ns: int
    devices: tuple[JsonObject, ...]

    def rates(self, before: TopSample | None) -> dict[str, dict[str, float]]:
        """The counters of each device per second, by its id; empty without an earlier sample."""
        if before is None or self.now_ns <= before.now_ns:
            return {}
        seconds = (self.now_ns - before.now_ns) / 1e9
        known = {device["id"]: device for device in before.devices}
        return {
            device["id"]: {
                name: max(0, device[name] - known[device["id"]][name]) / seconds
                for name in COUNTERS
            }
            for device in self.devices
            if device["id"] in known
        }

    def to_json(self, before: TopSample | None) -> JsonObject:
        """The sample as JSON; a device has the member ``rates`` from the second sample on."""
        rates = self.rates(before)
        return {
            "status": self.status,
            "migration": self.migration,
            "now-ns": self.now_ns,
            "devices": [
                {**device, **({"rates": rates[device["id"]]} if device["id"] in rates else {})}
                for device in self.devices
            ],
        }


def view(address: str, sample: TopSample, before: TopSample | None) -> RenderableType:
    """The lines and the table of a sample, at most 80 columns wide."""
    devices = counted(len(sample.devices), "device")
    title = f"{_text(sample.status)}: {devices}, {_rings(sample.devices)}"
    lines = [Text(address, overflow="ellipsis", no_wrap=True), Text(title)]
    if sample.migration:
        lines.append(Text(_migration(sample.migration), overflow="ellipsis", no_wrap=True))
    table = new_table(None, plain=False)
    table.padding = (0, 0, 0, 1)
    table.add_column("device", max_width=_NAME_WIDTH, no_wrap=True)
    table.add_column("state", no_wrap=True)
    for name in ("rings", "done/s", "in flight", "kicks/s", "calls/s"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("notifiers", no_wrap=True)
    rates = sample.rates(before)
    for device in sample.devices:
        table.add_row(*_cells(device, rates.get(device["id"], {})))
    return Group(*lines, table)


def _cells(device: JsonObject, rates: Mapping[str, float]) -> list[str]:
    running = sum(ring["state"] == "running" for ring in device["rings"])
    notifiers = [name for name in ("host", "guest") if device[f"{name}-notifiers"]]
    return [
        _text(device["id"]),
        _text(device["state"]),
        f"{running}/{len(device['rings'])}",
        _rate(rates.get("completed")),
        str(device["outstanding"]),
        _rate(rates.get("kicks")),
        _rate(rates.get("calls")),
        "both" if len(notifiers) > 1 else "".join(notifiers) or "-",
    ]


def _rate(value: float | None) -> str:
    """A rate in at most six characters."""
    for limit, unit in ((1e9, "G"), (1e6, "M")):
        if value is not None and value >= limit:
            return f"{value / limit:.1f}{unit}"
    return count(value)


def _rings(devices: tuple[JsonObject, ...]) -> str:
    states: dict[str, int] = {}
    for device in devices:
        for ring in device["rings"]:
            states[ring["state"]] = states.get(ring["state"], 0) + 1
    texts = [f"{counted(number, 'ring')} {_text(state)}" for state, number in states.items()]
    return ", ".join(texts) or "no rings"


def _text(value: object) -> str:
    """Text of the monitor, which a terminal must not obey."""
    return one_line(str(value), _MAX_TEXT)


def _migration(migration: Mapping[str, Any]) -> str:
    """One line on the current migration, or the last one."""
    parts = [f"migration {_text(migration.get('status'))}"]
    ram = migration.get("ram")
    if isinstance(ram, dict):
        parts.append(f"{size(ram['transferred'])} sent, {size(ram['remaining'])} left")
    for name, title in (("expected-downtime", "expected downtime"), ("downtime", "downtime")):
        if name in migration:
            parts.append(f"{title} {migration[name]} ms")
    if "error-desc" in migration:
        parts.append(_text(migration["error-desc"]))
    return ", ".join(parts)
