"""The output of `emu run`: samples while the VM runs, and totals at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from emu.report.cells import fitting, remainder, size
from emu.report.tables import back_end_lines, integrity_line, proof_line, vm_line
from vhost_user.console import console_for
from vhost_user.live_region import LiveRegion

if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Self, TextIO

    from rich.console import Console

    from emu.report.load_results import LoadReport, Sample


class TableView:
    """A table on a terminal, which each sample redraws."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = LiveRegion(console)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._live.close()

    def show(self, sample: Sample) -> None:
        """Draw the table again, with this sample; in place of a progress on the same terminal."""
        self._live.show(_table(sample, self._console.width))


class LineView:
    """A line for each sample, if the output is not a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def show(self, sample: Sample) -> None:
        """Write the line."""
        parts = []
        for name, rates in sample.rates.items():
            kinds = [key for key in ("requests", "packets", "interrupts") if key in rates]
            parts.append(f"{name} " + ", ".join(f"{rates[key]:.0f} {key}/s" for key in kinds))
        self._stream.write(f"{sample.seconds:6.1f} s  {'; '.join(parts)}\n")
        self._stream.flush()


class NoView:
    """Prints no samples: `--quiet`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        pass

    def show(self, sample: Sample) -> None:
        """Do nothing."""


def _table(sample: Sample, width: int) -> Table:
    """A row for each class of devices, and as many columns as there is room for."""

    def build(left_out: Collection[str]) -> Table:
        title = f"{sample.seconds:.0f} s"
        made = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
        made.add_column("class", no_wrap=True)
        for name in _RATES:
            if name not in left_out:
                made.add_column(name, justify="right", no_wrap=True)
        for name, rates in sample.rates.items():
            cells = zip(_RATES, _cells(rates), strict=True)
            made.add_row(name, *(cell for column, cell in cells if column not in left_out))
        return made

    made, left_out = fitting(build, _LEAST_FIRST, width)
    made.caption = "; ".join(remainder(len(sample.rates), len(sample.rates), left_out)) or None
    return made


_RATES = ("requests/s", "packets/s", "interrupts/s", "kicks/s", "calls/s", "bytes/s")
#: Columns that may be left out, in this order.
_LEAST_FIRST = ("calls/s", "kicks/s", "interrupts/s", "bytes/s")


def _cells(rates: dict[str, float]) -> list[str]:
    cells = [
        f"{rates[key]:,.0f}" if key in rates else "-"
        for key in ("requests", "packets", "interrupts", "kicks", "calls")
    ]
    moved = [rates[key] for key in ("bytes_read", "bytes_written") if key in rates]
    return [*cells, size(int(sum(moved))) if moved else "-"]


def _total(key: str, count: int) -> str:
    kind, _, way = key.partition("_")
    return f"{size(count)} {way}" if kind == "bytes" else f"{count} {key.replace('_', ' ')}"


def make(stream: TextIO, *, quiet: bool) -> TableView | LineView | NoView:
    """The view for this output: a terminal, a file or pipe, or none."""
    if quiet:
        return NoView()
    console = console_for(stream)
    changes = console.is_terminal and not console.is_dumb_terminal
    return TableView(console) if changes else LineView(stream)


def show_report(report: LoadReport, stream: TextIO) -> None:
    """Print the totals and the outcome of the guest's requests."""
    lines = [vm_line(report.machine, report.accel), *back_end_lines(report.machine)]
    lines.append(f"ran for {report.seconds:.1f} s")
    for name, counts in report.totals.items():
        lines.append(f"{name}: {', '.join(_total(key, n) for key, n in counts.items())}")
    if report.departed:
        lines.append("the VM was migrated to another run, which checks its requests")
    else:
        lines.append(integrity_line(report.integrity))
        if proof := proof_line(report.machine, report.integrity):
            lines.append(proof)
    console = console_for(stream)
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal)
