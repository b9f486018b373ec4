"""The figures of a benchmark besides its time: its unit, and the ratio to the floor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: What was measured side by side, by its name in ``extra_info``: this project; the back-end of
#: another one; the same with io_uring.
OURS, DAEMON, IO_URING = "ours", "daemon", "io_uring"
#: The memory of a destination, in the parameters of a benchmark: new, or with pages that exist.
NEW, AGAIN = "new", "again"
_SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


@dataclass(slots=True)
class Figure:
    """One benchmark's line in the summary; the benchmark fills it in.

    Attributes:
        name: of the benchmark, with its parameters.
        info: pytest-benchmark's ``extra_info``: goes into the JSON.
        group: what it is compared within.
        unit: what a round does many of: ``ring``, ``message``, ``eventfd``.
        units: how many of them.
        floor_ns: what the C program takes for the same.
        lockstep_floor_ns: what it takes when it asks for one thing after the other.
        notes: further columns of the summary.
        seconds: median of a round; None while nothing has been timed.
    """

    name: str
    info: dict[str, Any]
    group: str = ""
    unit: str = ""
    units: int = 1
    floor_ns: int | None = None
    lockstep_floor_ns: int | None = None
    notes: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def ratio(self) -> float | None:
        """The ratio to the floor."""
        return self._times(self.floor_ns)

    @property
    def lockstep_ratio(self) -> float | None:
        """The ratio to the lock-step floor."""
        return self._times(self.lockstep_floor_ns)

    def _times(self, floor_ns: int | None) -> float | None:
        if self.seconds is None or floor_ns is None:
            return None
        return self.seconds * 1e9 / floor_ns

    def finish(self, seconds: float) -> None:
        """After the benchmark was timed: compute the figures for the JSON."""
        self.seconds = seconds
        self.info["median_ms"] = seconds * 1e3
        if self.unit:
            self.info.update(unit=self.unit, units=self.units, unit_us=seconds * 1e6 / self.units)
        if self.floor_ns is not None:
            self.info.update(floor_ms=self.floor_ns / 1e6, ratio_to_floor=self.ratio)
        if self.lockstep_floor_ns is not None:
            self.info.update(
                lockstep_floor_ms=self.lockstep_floor_ns / 1e6,
                ratio_to_lockstep_floor=self.lockstep_ratio,
            )
        self.info["cells"] = self.cells()

    def cells(self) -> dict[str, str]:
        """Its columns in the summary."""
        if self.seconds is None:
            return {}
        cells = {"benchmark": self.name, "median": duration(self.seconds)}
        if self.unit:
            cells[f"per {self.unit}"] = duration(self.seconds / self.units)
        if self.floor_ns is not None and self.ratio is not None:
            cells |= {"floor": duration(self.floor_ns / 1e9), "x floor": f"{self.ratio:.1f}"}
        if self.lockstep_floor_ns is not None and self.lockstep_ratio is not None:
            cells |= {
                "lock-step floor": duration(self.lockstep_floor_ns / 1e9),
                "x lock-step": f"{self.lockstep_ratio:.1f}",
            }
        return cells | self.notes

    def line(self) -> str:
        """The same as a sentence, to print while the benchmarks run."""
        text = f"{self.group}: {self.name}: {duration(self.seconds or 0.0)}"
        if self.ratio is not None:
            text += f", {self.ratio:.1f} times the floor of {duration((self.floor_ns or 0) / 1e9)}"
        return text


def duration(seconds: float) -> str:
    """``12.3 ms``: three digits in the unit that suits."""
    scale, unit = next(((s, unit) for s, unit in _SCALES if seconds >= s), (1e-9, "ns"))
    value = seconds / scale
    return f"{value:.{max(0, 3 - len(str(int(value))))}f} {unit}"


def _cells(rows: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """The names of all columns, then each row with a cell for each of them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [names, *([row.get(name, "-") for name in names] for row in rows)]


def markdown(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The same as `table` in Markdown."""
    names, *cells = _cells(rows)
    lines = [names, ["---", *("---:" for _ in names[1:])], *cells]
    escaped = [[text.replace("|", r"\|") for text in line] for line in lines]
    return [f"| {' | '.join(line)} |" for line in escaped]


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a table: the first column to the left, all others to the right."""
    cells = _cells(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
