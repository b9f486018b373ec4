"""`make qemu-baseline`: QEMU and this project's VM on the same back-ends, in alternation."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import click

from backends import console_script
from bench.ended_by import ended_by
from bench.qemu_baseline import qemu_vm
from bench.qemu_baseline.emu_vm import EmuVm
from bench.qemu_baseline.qemu_vm import QemuVm
from bench.qemu_baseline.result import SCHEMA, Result
from bench.qemu_baseline.rounds import QEMU, Rounds, other_back_ends, own_back_ends
from emu.cli import exit_status
from emu.commands import validate
from emu.commands.json_output import deliver, json_option, report_stream
from emu.config.plan import MachinePlan
from emu.errors import EmuError, OptionError
from emu.machine.accel import registry
from emu.orchestrator import host_limits
from emu.orchestrator.signals import SignalWatcher
from vhost_user.temporary_directory import TemporaryDirectory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from bench.qemu_baseline.measurement import MeasuredVm
    from bench.qemu_baseline.qemu_vm import Qemu
    from emu.config.vm_spec import VmSpec

NAME = "qemu-baseline"
MAX_ROUNDS = 1000
#: Both VMs run with KVM, or both are emulated.
ACCELERATORS = {"auto": "auto", "kvm": "kvm", "emulated": "tcg"}
BACK_ENDS = ("all", "own", "others")

HELP = """Stop, start and migrate the same VM in QEMU and in this project, in alternation.

Both have the same devices, on the same back-end programs; the default is the VM of the RFC of March
2021: 24 disks with 4 rings and 16 NICs with 32. QEMU's guest sets up all rings. The figure that is
compared is the gap in the guest's heartbeat, which a watcher of guest memory sees.

\b
Examples:
  python -m bench.qemu_baseline --rounds 5 --json baseline.json
  python -m bench.qemu_baseline --blk 4x4 --net 0 --back-ends own

Without QEMU nothing is measured, and the status is 0. It is 1 if a VM failed, and 2 for a usage
error.
"""


@click.command(help=HELP)
@click.option("--blk", metavar="NxR", help="N disks with R rings each, or 0.  [default: 24x4]")
@click.option("--net", metavar="NxR", help="N NICs with R rings each, or 0.  [default: 16x32]")
@click.option(
    "--vcpus",
    type=int,
    default=1,
    show_default=True,
    metavar="N",
    help="vCPUs; all but the first one are halted.",
)
@click.option("--memory", default="256M", show_default=True, metavar="SIZE", help="Guest memory.")
@click.option(
    "--rounds", type=click.IntRange(1, MAX_ROUNDS), default=3, show_default=True, metavar="N"
)
@click.option(
    "--stops",
    type=click.IntRange(1, MAX_ROUNDS),
    default=5,
    show_default=True,
    metavar="N",
    help="How often each VM is stopped and started in a round.",
)
@click.option(
    "--strategy",
    "-s",
    default="qemu-2021,prewired",
    show_default=True,
    metavar="NAME[,NAME...]",
    help="Strategies of this project's migrations. The last one is compared.",
)
@click.option(
    "--accel",
    type=click.Choice(list(ACCELERATORS)),
    default="auto",
    show_default=True,
    help="KVM, or QEMU's TCG and this project's soft accelerator; auto is KVM where it works.",
)
@click.option(
    "--back-ends",
    type=click.Choice(BACK_ENDS),
    default=BACK_ENDS[0],
    show_default=True,
    help="This project's, and qemu-storage-daemon and dpdk-testpmd where they are installed.",
)
@click.option(
    "--qemu",
    default=qemu_vm.PROGRAM,
    show_default=True,
    metavar="COMMAND",
    help="The command of QEMU, such as that of a build of yours.",
)
@json_option("the figures")
def measure(
    *,
    blk: str | None,
    net: str | None,
    vcpus: int,
    memory: str,
    rounds: int,
    stops: int,
    strategy: str,
    accel: str,
    back_ends: str,
    qemu: str,
    json_file: Path | None,
) -> None:
    """The command line."""
    validate.output_file("--json", json_file, takes_stdout=True)
    spec = validate.shape({"blk": blk, "net": net, "rng": "0"}, vcpus=vcpus, memory=memory)
    qemu_vm.check_shape(spec)
    strategies = validate.strategies(strategy)
    for each in strategies:
        if each.hands_over:
            raise OptionError(f"--strategy {each.NAME}: the devices keep their back-ends")
    host_limits.check(spec)
    say = partial(click.echo, err=True)
    command = _words(qemu)
    skipped = qemu_vm.missing(command)
    if skipped:
        say(f"{NAME}: skipped: {skipped}")
        deliver(json_file, {"schema": SCHEMA, "skipped": skipped})
        return
    others, notes = (None, []) if back_ends == "own" else other_back_ends(spec)
    own = None if back_ends == "others" else own_back_ends(spec)
    sets = [each for each in (own, others) if each is not None]
    if not sets:
        raise EmuError("; ".join(notes))
    with TemporaryDirectory(f"{NAME}-") as folder, SignalWatcher() as watcher:
        found = _find(command, ACCELERATORS[accel], folder, watcher, spec)
        plan = MachinePlan(spec, accel="kvm" if found.accel == "kvm" else "soft", load="none")
        names = [each.NAME for each in strategies]
        make = partial(_make, found, names)
        measured = Rounds(plan, sets, make, stops=stops, watcher=watcher, report=say)
        ended = ended_by(partial(measured.run, rounds))
    result = Result(
        found,
        plan,
        sets,
        measured,
        rounds,
        stops,
        names,
        shlex.join(["python", "-m", "bench.qemu_baseline", *sys.argv[1:]]),
        notes,
        interrupted=ended is not None,
    )
    if not result.empty:
        result.print(report_stream(json_file))
    deliver(json_file, result.to_json())
    if ended is not None:
        raise ended
    if not result.complete:
        raise EmuError(measured.failures[0].reason)


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionError(f"--qemu {text!r} is not a command: {error}") from None
    if not words:
        raise OptionError("--qemu needs a command")
    return words


def _find(
    command: Sequence[str], accel: str, folder: Path, watcher: SignalWatcher, spec: VmSpec
) -> Qemu:
    """The QEMU to measure; with KVM only if this project's VM can have KVM as well."""
    size = {"vcpus": spec.vcpus, "rings": spec.rings}
    if accel == "auto" and registry.resolve("auto", **size) != "kvm":
        accel = "tcg"
    return qemu_vm.find(command, accel, folder, watcher)


def _make(
    qemu: Qemu, strategies: list[str], name: str, plan: MachinePlan
) -> AbstractContextManager[MeasuredVm]:
    return QemuVm(qemu, plan) if name == QEMU else EmuVm(plan, strategies)


def main() -> NoReturn:
    """Run the command and exit: each error is one line on stderr."""
    console_script.run(NAME, run)


def run() -> int:
    """Run the command of `sys.argv`; its exit status."""
    return exit_status(NAME, partial(measure.main, prog_name=NAME, standalone_mode=False))


if __name__ == "__main__":
    main()
