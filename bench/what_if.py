"""Compare the what-if of `emu tap` with measurements.

A VM migrates by `qemu-2021` through `emu tap`, which estimates the stop of its devices by the other
strategies. Then it migrates by each of them without the tap, and the stop is measured. Both repeat
alternately, on the same back-end programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from emu.config.backend_commands import READY_MADE, BackEndCommand, DeviceFiles
from emu.config.device_kinds import KINDS
from vhost_user.unix_socket import is_listening

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

TIMEOUT = 120.0
RUN_TIMEOUT = 600.0
IMAGE_BYTES = 64 << 20
STRATEGIES = ("qemu-2021", "threads", "split", "prewired")
SIDES = "AB"
#: Besides this project's disk, the commands that have a name.
OWN = "vhost-emu-blk"
_OWN_COMMAND = (
    f"{sys.executable} -m backends.blk --socket-path {{socket}} --blk-file {{image}} "
    "--num-queues {queues}"
)
_POLL = 0.1


class Estimate(NamedTuple):
    """What the tap has estimated for a strategy, in milliseconds; see `emu.tap.what_if`."""

    apart: float
    processes: float
    together: float


class Rig:
    """The back-end programs of both sides, and a tap, in a directory.

    Args:
        folder: for sockets, images and logs.
        command: starts the back-ends.
        count, rings: of the devices.
        stack: ends the programs.
    """

    def __init__(
        self,
        folder: Path,
        command: BackEndCommand,
        count: int,
        rings: int,
        stack: contextlib.ExitStack,
    ) -> None:
        self._folder = folder
        self._class = command.device_class
        self._shape = f"{count}x{rings}"
        self._stack = stack
        self._log = folder / "tap.jsonl"
        self.count = count
        image = KINDS[self._class].has_image
        for side in SIDES:
            devices = [
                DeviceFiles(number, rings, self._socket(side, number), self._image(number, image))
                for number in range(count)
            ]
            groups = [devices] if command.shared else [[device] for device in devices]
            for group in groups:
                self._start(command.argv(group, side=side, pid_file=str(folder / "pid")))
        self._await(self._socket(side, number) for side in SIDES for number in range(count))
        pairs = [
            word
            for side in SIDES
            for number in range(count)
            for word in ("--pair", f"{self._tapped(side, number)}:{self._socket(side, number)}")
        ]
        self._start([*_EMU, "tap", "-q", *pairs, "--json", str(self._log)])
        self._await(self._tapped(side, number) for side in SIDES for number in range(count))

    def estimate(self) -> dict[str, Estimate]:
        """Migrate through the tap; the estimates for the stop of all devices."""
        before = len(self._stops())
        self._migrate(STRATEGIES[:1], tapped=True)
        deadline = time.monotonic() + TIMEOUT
        while not (stops := self._stops()[before:]):
            assert time.monotonic() < deadline, "the tap has seen no stop of all devices"
            time.sleep(_POLL)  # no event tells that another program has written to a file
        return {
            each["strategy"]: Estimate(
                *(each[name] / 1e6 for name in ("apart_ns", "processes_ns", "together_ns"))
            )
            for each in stops[0]["what_if"]
        }

    def measure(self) -> dict[str, float]:
        """Migrate without the tap; milliseconds of the stop by strategy."""
        return {
            run["strategy"]: row["wall_ms"]
            for run in self._migrate(STRATEGIES, tapped=False)
            for row in run["phases"]
            if (row["phase"], row["class"]) == ("src.get_vring_base", self._class)
        }

    def _migrate(self, strategies: Sequence[str], *, tapped: bool) -> list[dict[str, Any]]:
        path = self._tapped if tapped else self._socket
        out = self._folder / "migrate.json"
        other = "net" if self._class == "blk" else "blk"
        argv = [*_EMU, "migrate", f"--{self._class}", self._shape, f"--{other}", "0", "--scratch"]
        argv += ["--vcpus", "2", "--memory", "1G", "--accel", "soft", "--json", str(out), "--quiet"]
        argv += ["--strategy", ",".join(strategies), "--deadline", "60s"]
        for number in range(self.count):
            for option, side in (("src", "A"), ("dst", "B")):
                argv += [f"--{option}-{self._class}", path(side, number)]
        subprocess.run(argv, check=True, timeout=RUN_TIMEOUT)
        runs: list[dict[str, Any]] = json.loads(out.read_text())["runs"]
        return runs

    def _stops(self) -> list[dict[str, Any]]:
        found = []
        whole, _, _ = self._log.read_text().rpartition("\n")  # the tap may write the next line now
        for line in whole.splitlines():
            if line.startswith('{"event":"stop"'):
                stop = json.loads(line)
                if all(len(row["devices"]) == self.count for row in stop["rows"]):
                    found.append(stop)
        return found

    def _socket(self, side: str, number: int) -> str:
        return str(self._folder / f"{side}-{self._class}{number}.sock")

    def _tapped(self, side: str, number: int) -> str:
        return str(self._folder / f"tap-{side}-{self._class}{number}.sock")

    def _image(self, number: int, image: bool) -> str:
        path = self._folder / f"{number}.img"
        if image:
            with path.open("ab") as file:
                file.truncate(IMAGE_BYTES)
        return str(path) if image else ""

    def _start(self, argv: Sequence[str]) -> None:
        with (self._folder / "programs.log").open("ab") as log:
            program = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=log, stderr=log)
        self._stack.callback(program.wait)
        self._stack.callback(program.terminate)

    def _await(self, sockets: Iterable[str]) -> None:
        deadline = time.monotonic() + TIMEOUT
        for socket in sockets:
            while not is_listening(socket):
                log = (self._folder / "programs.log").read_text(errors="replace")
                assert time.monotonic() < deadline, f"{socket} does not appear: {log}"
                time.sleep(_POLL)  # the same


_EMU = (sys.executable, "-m", "emu.cli")


@contextlib.contextmanager
def _rig(command: BackEndCommand, count: int, rings: int) -> Iterator[Rig]:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        yield Rig(Path(folder), command, count, rings, stack)


def _range(values: Sequence[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:.1f} ({min(values):.1f} to {max(values):.1f})"


def _table(estimates: Sequence[dict[str, Estimate]], measured: Sequence[dict[str, float]]) -> str:
    """As Markdown, with medians and ranges of milliseconds."""
    lines = [
        (
            "| strategy | estimate: a thread per device, ms | per process, ms | for all, ms | "
            "measured, ms | per process / measured |"
        ),
        "|---|---|---|---|---|---|",
    ]
    for strategy in STRATEGIES:
        columns = [[getattr(each[strategy], name) for each in estimates] for name in _COLUMNS]
        truth = [each[strategy] for each in measured]
        ratio = statistics.median(columns[1]) / statistics.median(truth)
        cells = [f"`{strategy}`", *map(_range, [*columns, truth]), f"{ratio:.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


_COLUMNS = Estimate._fields


@click.command(help=__doc__)
@click.option(
    "--backend", type=click.Choice([OWN, *READY_MADE]), default=OWN, help="Back-end program."
)
@click.option("--count", type=int, help="Number of devices.  [default: that of the RFC's VM]")
@click.option("--rings", type=int, help="Rings of each device.  [default: those of the RFC's VM]")
@click.option("--stop-time", help="With vhost-emu-blk: how long a ring takes to stop, such as 1ms.")
@click.option("--repeat", type=int, default=5, show_default=True)
def main(
    backend: str, count: int | None, rings: int | None, stop_time: str | None, repeat: int
) -> None:
    """Print a table."""
    device_class = "blk" if backend == OWN else READY_MADE[backend].device_class
    command = _OWN_COMMAND + (f" --stop-time {stop_time}" if stop_time else "")
    text = command if backend == OWN else backend
    default = {"blk": (24, 4), "net": (16, 32)}[device_class]
    estimates: list[dict[str, Estimate]] = []
    measured: list[dict[str, float]] = []
    loads = [os.getloadavg()[0]]
    with _rig(
        BackEndCommand.parse(device_class, text), count or default[0], rings or default[1]
    ) as rig:
        for _ in range(repeat):
            estimates.append(rig.estimate())
            measured.append(rig.measure())
            loads.append(os.getloadavg()[0])
    click.echo(_table(estimates, measured))
    click.echo(
        f"{repeat} repeats; load average {min(loads):.1f} to {max(loads):.1f} on "
        f"{os.cpu_count()} CPUs"
    )


if __name__ == "__main__":
    main()
