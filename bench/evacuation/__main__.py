"""`make evacuation`: what the evacuation of a host takes under each strategy.

A sweep measures the blackouts of VMs of several shapes, each VM on one core: so the costs of a
device and of a ring are the processor time that they take. Some VMs of one shape are evacuated on
this host, and a simulation with these costs is compared with that. The same simulation then
evacuates a host with 1000 VMs.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click

from backends import console_script
from backends.options import FilePath
from bench.evacuation.costs import CostError, Costs, by_strategy
from bench.evacuation.measured import Evacuation, evacuate
from bench.evacuation.simulation import Host, Migrated, Phase, simulate
from emu.cli import exit_status
from emu.commands import validate
from emu.config.plan import MachinePlan, MigrationPlan
from emu.config.vm_spec import VmSpec
from emu.errors import EmuError, OptionError
from emu.orchestrator.managed_process import end_with_parent
from emu.orchestrator.signals import SignalWatcher
from emu.report.results import host_facts
from emu.sweep import matrix
from vhost_user import output_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAME = "evacuation"
SCHEMA = 1
VCPUS, MEMORY = 1, 256 << 20
#: All but handover, which passes the devices to a process of the same host.
STRATEGIES = "qemu-2021,qemu-now,threads,processes,split,prewired"


class Class(NamedTuple):
    """VMs of the simulated host.

    Attributes:
        name: of the class.
        vms: how many the host has.
        devices, rings: of each, in total.
        gib: of memory that each has.
    """

    name: str
    vms: int
    devices: int
    rings: int
    gib: int


#: 1 NIC x 2 rings and 1 disk x 1; 2 NICs x 8 and 2 disks x 4; 4 NICs x 16 and 8 disks x 4.
CLASSES = (
    Class("small", 700, 2, 3, 2),
    Class("medium", 250, 4, 24, 8),
    Class("large", 50, 12, 96, 32),
)


def blackout(costs: Costs, devices: int, rings: int) -> Phase:
    """The blackout of a VM: with these costs it has a core for itself."""
    return Phase(costs.downtime(devices, rings) / 1e3, 1.0, blackout=True)


@click.command(help=__doc__)
@click.option("--out", type=FilePath(), required=True, metavar="DIR")
@click.option("--strategy", "strategies", default=STRATEGIES, metavar="NAME[,NAME...]")
@click.option("--net", default="0,1x2,1x16,8x2,8x16", metavar="SHAPES", help="Of the sweep.")
@click.option("--blk", default="1x1,1x16,8x4", metavar="SHAPES", help="Of the sweep.")
@click.option("--repeat", type=click.IntRange(1), default=3, help="Of the sweep.")
@click.option("--evacuated-by", default="qemu-2021,threads,prewired", metavar="NAME[,NAME...]")
@click.option("--vms", type=click.IntRange(1), default=4, help="That are evacuated here.")
@click.option("--vm-net", default="2x8", metavar="NxR", help="NICs of each of them.")
@click.option("--vm-blk", default="2x4", metavar="NxR", help="Disks of each of them.")
@click.option("--parallel", default="1,2,4", metavar="N[,N...]", help="The first one is 1.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="Of the evacuations.")
@click.option("--cores", type=click.FloatRange(1), default=8.0, help="Of the simulated host.")
@click.option("--link-gbit", type=click.FloatRange(1), default=100.0, help="Of the same.")
@click.option("--stream-gbit", type=click.FloatRange(1), default=20.0, help="Of one migration.")
@click.option("--stream-cores", type=click.FloatRange(0), default=1.0, help="That it uses.")
def measure(**options: Any) -> None:
    """Measure, simulate, and print the tables of docs/explanation/scale.md."""
    out: Path = options["out"]
    names = [each.NAME for each in validate.strategies(options["strategies"])]
    for name in options["evacuated_by"].split(","):
        if name not in names:
            raise OptionError(f"--evacuated-by {name}: it is not one of --strategy")
    out.mkdir(parents=True, exist_ok=True)
    try:
        known = by_strategy(_sweep(out, options)["migrations"])
    except CostError as error:
        raise EmuError(str(error)) from None
    _print_costs(known)
    with SignalWatcher() as watcher:
        measured = _evacuations(options, watcher)
    compared = [
        row
        for name in dict.fromkeys(each.strategy for each in measured)
        for row in _compared(
            known[name], [each for each in measured if each.strategy == name], options
        )
    ]
    _print_compared(compared, measured[0].idle_cores)
    scenario = [row for name in names for row in _scenario(name, known[name], options)]
    _print_scenario(scenario, known)
    document = {
        "schema": SCHEMA,
        "host": host_facts(),
        "options": {name: str(value) for name, value in options.items() if name != "out"},
        "costs": {name: costs._asdict() for name, costs in known.items()},
        "measured": [each._asdict() for each in measured],
        "compared": compared,
        "scenario": scenario,
    }
    output_file.write(out / "evacuation.json", json.dumps(document, indent=1) + "\n")


def _sweep(out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The document of a sweep on one worker for each core."""
    workers = len(os.sched_getaffinity(0))
    file = out / "sweep.json"
    subprocess.run(
        [
            *(sys.executable, "-m", "emu.cli", "sweep", "--net", options["net"]),
            *("--blk", options["blk"], "--strategy", options["strategies"]),
            *("--repeat", str(options["repeat"]), "--vcpus", str(VCPUS)),
            *("--memory", f"{MEMORY >> 20}M", "--load", "none", "--accel", "soft"),
            *("--scheduler", "local", "--workers", str(workers)),
            *("--results", str(out / "sweep"), "--json", str(file)),
        ],
        stdout=subprocess.DEVNULL,
        check=True,
        preexec_fn=end_with_parent,
    )
    whole: dict[str, Any] = json.loads(file.read_bytes())
    return whole


def _spec(options: dict[str, Any]) -> VmSpec:
    shapes = {"net": options["vm_net"], "blk": options["vm_blk"]}
    (spec,) = matrix.product(shapes, VmSpec(VCPUS, MEMORY))
    return spec


def _evacuations(options: dict[str, Any], watcher: SignalWatcher) -> list[Evacuation]:
    parallels = [int(part) for part in options["parallel"].split(",")] * options["rounds"]
    names = tuple(options["evacuated_by"].split(","))
    machine = MachinePlan(_spec(options), load="none")
    click.echo(f"evacuate {options['vms']} VMs", err=True)
    plan = MigrationPlan(machine, names, repeat=len(parallels))
    return evacuate(plan, options["vms"], parallels, watcher)


def _compared(
    costs: Costs, measured: Sequence[Evacuation], options: dict[str, Any]
) -> list[dict[str, Any]]:
    """The measured evacuations, and the simulated ones.

    Of those with the same number at a time the one with the shortest downtimes counts. The first
    one, of one VM after the other, has the time and the cores of the rest of a migration.
    """
    best: dict[int, Evacuation] = {}
    for each in measured:
        known = best.setdefault(each.parallel, each)
        best[each.parallel] = min(known, each, key=lambda found: found.downtime_ms)
    spec = _spec(options)
    down = blackout(costs, len(spec.devices), spec.rings)
    alone = next(iter(best.values()))
    before = statistics.median(alone.migration_seconds) - alone.downtime_ms / 1e3
    work = statistics.median(alone.cpu_seconds) - down.seconds * down.cores
    rest = Phase(before, max(0.0, work / before))
    rows = []
    for each in best.values():
        # The VMs that do not migrate go on.
        others = each.idle_cores * max(0, 1 - each.parallel / options["vms"])
        host = Host(len(os.sched_getaffinity(0)), each.parallel, others)
        found = simulate([(rest, down)] * options["vms"], host)
        rows.append(
            {
                "strategy": each.strategy,
                "parallel": each.parallel,
                "downtime_ms": each.downtime_ms,
                "simulated_downtime_ms": statistics.median(_downtimes_ms(found)),
                "seconds": each.seconds,
                "simulated_seconds": found[-1].end,
            }
        )
    return rows


def _downtimes_ms(migrated: Sequence[Migrated]) -> list[float]:
    return [each.downtime * 1e3 for each in migrated]


def _scenario(name: str, costs: Costs, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The host with 1000 VMs, with several numbers of migrations at one time."""
    share = options["stream_gbit"] / options["link_gbit"]
    migrations = []
    for each in CLASSES:
        seconds = each.gib * 8.589934592 / options["stream_gbit"]
        phases = (
            Phase(seconds, options["stream_cores"], share),
            blackout(costs, each.devices, each.rings),
        )
        migrations += [(each, phases)] * each.vms
    # The classes in turn, as a host has them.
    order = sorted(range(len(migrations)), key=lambda at: (at * 387) % len(migrations))
    rows = []
    for parallel in (2, 8, 32):
        found = simulate([migrations[at][1] for at in order], Host(options["cores"], parallel))
        downtimes = sorted(_downtimes_ms(found))
        rows.append(
            {
                "strategy": name,
                "parallel": parallel,
                "minutes": max(each.end for each in found) / 60,
                "downtime_sum_s": sum(downtimes) / 1e3,
                "downtime_p50_ms": statistics.median(downtimes),
                "downtime_p99_ms": downtimes[len(downtimes) * 99 // 100],
                "downtime_most_ms": downtimes[-1],
            }
        )
    return rows


def _print_costs(known: dict[str, Costs]) -> None:
    click.echo("Costs of a blackout, ms\n")
    rows = [
        [
            f"`{name}`",
            *(f"{value:.3f}" for value in (each.base, each.device, each.ring)),
            f"{each.error_percent:.0f}%",
        ]
        for name, each in known.items()
    ]
    _print_table(("strategy", "a VM", "a device", "a ring", "deviation"), rows)


def _print_compared(rows: Sequence[dict[str, Any]], idle_cores: float) -> None:
    click.echo("Evacuations of this host: measured, and simulated\n")
    click.echo(f"VMs that do not migrate use {idle_cores:.2f} cores in all\n")
    titles = ("strategy", "at a time", "downtime, ms", "simulated", "all VMs, s", "simulated")
    _print_table(
        titles,
        [
            [
                *(f"`{row['strategy']}`", str(row["parallel"])),
                *(f"{row['downtime_ms']:.2f}", f"{row['simulated_downtime_ms']:.2f}"),
                *(f"{row['seconds']:.2f}", f"{row['simulated_seconds']:.2f}"),
            ]
            for row in rows
        ],
    )


def _print_scenario(rows: Sequence[dict[str, Any]], known: dict[str, Costs]) -> None:
    click.echo("The downtime of one VM alone, ms\n")
    _print_table(
        ("strategy", *(each.name for each in CLASSES)),
        [
            [
                f"`{name}`",
                *(f"{each.downtime(c.devices, c.rings):.1f}" for c in CLASSES),
            ]
            for name, each in known.items()
        ],
    )
    click.echo(f"A host with {sum(each.vms for each in CLASSES)} VMs, simulated\n")
    titles = (
        "strategy",
        "at a time",
        "minutes",
        "sum of downtimes, s",
        "median, ms",
        "99%",
        "most",
    )
    _print_table(
        titles,
        [
            [
                *(f"`{row['strategy']}`", str(row["parallel"]), f"{row['minutes']:.1f}"),
                *(f"{row['downtime_sum_s']:.1f}", f"{row['downtime_p50_ms']:.1f}"),
                *(f"{row['downtime_p99_ms']:.1f}", f"{row['downtime_most_ms']:.1f}"),
            ]
            for row in rows
        ],
    )


def _print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    click.echo("| " + " | ".join(titles) + " |")
    click.echo("|" + "---|" * len(titles))
    for row in rows:
        click.echo("| " + " | ".join(row) + " |")
    click.echo()


def main() -> NoReturn:
    """Run the command and exit: each error is one line on stderr."""
    console_script.run(NAME, run)


def run() -> int:
    """Run the command of `sys.argv`; its exit status."""
    return exit_status(NAME, _measure)


def _measure() -> object:
    try:
        return measure.main(prog_name=NAME, standalone_mode=False)
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 1  # its own line has the reason


if __name__ == "__main__":
    main()
