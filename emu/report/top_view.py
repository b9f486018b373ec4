"""The output of `emu top`: the devices of a running VM, as its monitor describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.text import Text

from emu.report.cells import count, counted, fitting, new_table, remainder, rows_with_room, size
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rich.console import JustifyMethod, RenderableType
    from rich.table import Table

    from emu.qmp.protocol import JsonObject

#: The counters whose rates are shown.
COUNTERS = ("completed", "kicks", "calls")
_COLUMNS = ("device", "state", "rings", "done/s", "in flight", "kicks/s", "calls/s", "notifiers")
_TEXTS = ("device", "state", "notifiers")
#: Columns that may be left out, in this order.
_LEAST_FIRST = ("notifiers", "calls/s", "kicks/s", "state", "in flight")
#: Columns of a device's name.
_NAME_WIDTH = 12
_SHORTEST_NAME = 8
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


def view(
    address: str,
    sample: TopSample,
    before: TopSample | None,
    *,
    width: int = 80,
    height: int | None = None,
) -> RenderableType:
    """The lines and the table of a sample.

    Args:
        address: of the monitor.
        sample: what is shown.
        before: the sample before it, or None: there are no rates then.
        width: columns; where 80 are not there, columns of the table are left out.
        height: lines of the terminal; devices that do not fit are left out. None is any number.
    """
    devices = counted(len(sample.devices), "device")
    title = f"{_text(sample.status)}: {devices}, {_rings(sample.devices)}"
    lines = [Text(address, overflow="ellipsis", no_wrap=True), Text(title)]
    if sample.migration:
        lines.append(Text(_migration(sample.migration), overflow="ellipsis", no_wrap=True))
    rates = sample.rates(before)

    def build(left_out: Collection[str], room: int, *, name_width: int = _SHORTEST_NAME) -> Table:
        table = new_table(None, plain=False)
        table.padding = (0, 0, 0, 1)
        for name in _COLUMNS:
            if name not in left_out:
                justify: JustifyMethod = "left" if name in _TEXTS else "right"
                is_name = name == "device"
                table.add_column(
                    name,
                    justify=justify,
                    no_wrap=not is_name,  # it is made narrower, and its cells do not wrap
                    max_width=name_width if is_name else None,
                )
        for device in sample.devices[:room]:
            row = zip(_COLUMNS, _cells(device, rates.get(device["id"], {})), strict=True)
            table.add_row(*(cell for name, cell in row if name not in left_out))
        return table

    every = len(sample.devices)
    _, left_out = fitting(lambda names: build(names, every), _LEAST_FIRST, width)

    def render(room: int) -> Group:
        table = build(left_out, room, name_width=_NAME_WIDTH)
        more = remainder(every, room, left_out)
        return Group(*lines, table, *([Text("; ".join(more))] if more else []))

    return render(every if height is None else rows_with_room(render, every, width, height))


def _cells(device: JsonObject, rates: Mapping[str, float]) -> list[str | Text]:
    running = sum(ring["state"] == "running" for ring in device["rings"])
    notifiers = [name for name in ("host", "guest") if device[f"{name}-notifiers"]]
    return [
        Text(_text(device["id"]), no_wrap=True, overflow="ellipsis"),
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
