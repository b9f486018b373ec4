"""`emu attach`: an emulated VM on back-ends that run already."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import click

from backends.options import PathText
from backends.trace_options import trace_options
from emu.commands import validate
from emu.commands.color_option import color_option
from emu.commands.option_values import values_of
from emu.commands.qmp_option import incoming_uri, qmp_option, served_monitor
from emu.commands.ring_use_options import RingUseOptions, ring_use_options, ring_uses
from emu.commands.trace_option import trace_option
from emu.config.device_kinds import KINDS
from emu.config.plan import LOADS
from emu.config.ring_use import ALL_RINGS
from emu.errors import OptionError, SignalError
from emu.machine.accel import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from emu.orchestrator.attach import AttachedVm, AttachPlan
    from emu.orchestrator.signals import SignalWatcher

HELP = """Run a VM whose devices are served by back-ends that you have started, until Ctrl-C.

--blk, --net and so on take the socket of a device; each may be given several times. The guest
OVERWRITES THE DISKS (except with --load none). The command first reads the disks, and refuses them
unless they are all zeroes and have at most 1 GiB, or --scratch is given.

With --qmp the command serves QMP, the protocol of QEMU's monitor: query-status, stop, cont,
migrate, device_del, device_add, quit and others (query-commands lists them).

The loss of a back-end is reported, and the next back-end that listens on its socket takes over. The
exit status is 0 when at the end each device has a back-end and each request was completed once,
without an error.

\b
Examples:
  emu attach --blk /run/disk.sock --for 10s
  emu attach --net /run/nic.sock --rings 4 --qmp unix:/tmp/qmp.sock --load light
  emu attach --blk /run/other.sock --incoming unix:/tmp/migrate.sock
"""


def _socket_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for kind in reversed([*KINDS.values()]):
        command = click.option(
            f"--{kind.name}",
            multiple=True,
            type=PathText(),
            metavar="PATH",
            help=f"Socket of a back-end; once for each {kind.title}.",
        )(command)
    return command


@dataclass(frozen=True, slots=True)
class AttachOptions:
    """The values of the options; ``sockets`` has the paths of each kind's back-ends."""

    sockets: Mapping[str, tuple[str, ...]]
    rings: int | None
    ring_use: RingUseOptions
    vcpus: int
    memory: str
    load: str
    scratch: bool
    accel: str
    qmp: str | None
    incoming: str | None
    duration: str | None
    quiet: bool

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From the options of the command."""
        sockets = {name: options[name] for name in KINDS}
        ring_use = values_of(RingUseOptions, options)
        return values_of(cls, {**options, "sockets": sockets, "ring_use": ring_use})


@click.command(
    help=HELP,
    short_help="Run a VM on back-ends that you have started.",
)
@_socket_options
@click.option(
    "--rings",
    type=click.IntRange(1, 256),
    metavar="N",
    help="Rings of each device. [default: as many as its back-end offers, 2 at most, or as many "
    "as --rings-used or --pairs-used name]",
)
@ring_use_options
@click.option(
    "--vcpus", type=int, default=2, show_default=True, metavar="N", help="Number of vCPUs."
)
@click.option("--memory", default="256M", show_default=True, metavar="SIZE", help="Guest memory.")
@click.option(
    "--load",
    type=click.Choice(LOADS),
    default="light",
    show_default=True,
    help="What the guest does: nothing, a little, or all rings busy.",
)
@click.option(
    "--scratch",
    is_flag=True,
    help="Permit the guest to overwrite the disks' contents, and do not read them first.",
)
@click.option(
    "--accel",
    type=click.Choice(registry.CHOICES),
    default="soft",
    show_default=True,
    help="What runs the vCPUs and implements the notifiers.",
)
@qmp_option
@click.option(
    "--incoming",
    metavar="URI",
    help="Boot no guest: wait at unix:PATH or tcp:ADDRESS:PORT for a VM, or, with 'defer', for "
    "QMP's migrate-incoming.",
)
@click.option("--for", "duration", metavar="TIME", help="End after this time, such as 10s.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
@trace_options
@trace_option
@color_option
def attach(**options: Any) -> None:
    """Check the options, run the VM, and report its counters."""
    from emu.orchestrator.attach import AttachedVm
    from emu.orchestrator.signals import SignalWatcher

    own = AttachOptions.of(options)
    text = own.duration
    seconds = None if text is None else validate.duration("--for", text) / 1e9
    plan = _plan(own)
    quiet = own.quiet
    waiting = _ignore if quiet else _report
    with SignalWatcher() as watcher, AttachedVm(plan, _report, waiting) as vm:
        vm.start(watcher)
        if not quiet:
            devices = ", ".join(
                f"{device if device.use.note(device.rings) else device.name} on "
                f"{plan.backends[device.name]}"
                for device in vm.spec.devices
            )
            _report(f"running ({vm.accel}): {devices}")
        _run(vm, watcher, seconds)
        if not quiet:
            _report(_summary(vm))
        vm.check()


def _report(line: str) -> None:
    click.echo(line, file=sys.stderr)


def _ignore(_line: str) -> None:
    """Not printed with --quiet."""


def _plan(options: AttachOptions) -> AttachPlan:
    from emu.config.vm_spec import DeviceGroup, ShapeError, VmSpec, with_use
    from emu.orchestrator.attach import AttachPlan

    given = [kind for kind in KINDS.values() if options.sockets[kind.name]]
    if not given:
        sockets = ", ".join(f"--{name} PATH" for name in KINDS)
        raise OptionError(f"no back-end is given: use one or more of {sockets}")
    rings = options.rings
    for kind in given:
        if rings is not None and (why_not := kind.why_not(rings)):
            raise OptionError(f"--rings {rings}: {why_not}")
    uses = ring_uses(options.ring_use)
    groups = [
        DeviceGroup(
            kind.name,
            len(options.sockets[kind.name]),
            rings or kind.rings_for(uses.get(kind.name, ALL_RINGS).needed),
        )
        for kind in given
    ]
    memory = validate.size("--memory", options.memory)
    try:
        spec = VmSpec(options.vcpus, memory, with_use(groups, uses))
    except ShapeError as error:
        raise OptionError(str(error)) from None
    paths = [path for kind in given for path in options.sockets[kind.name]]
    validate.different_sockets(paths)
    backends = {device.name: path for device, path in zip(spec.devices, paths, strict=True)}
    return AttachPlan(
        spec,
        backends,
        options.accel,
        options.load,
        served_monitor(options.qmp),
        scratch=options.scratch,
        rings_given=rings is not None,
        incoming=incoming_uri(options.incoming, options.qmp),
    )


def _run(vm: AttachedVm, watcher: SignalWatcher, seconds: float | None) -> None:
    """Run until Ctrl-C, SIGTERM, ``quit``, or the end of the time."""
    try:
        vm.run(watcher, seconds)
    except SignalError as end:
        if end.signum not in (signal.SIGINT, signal.SIGTERM):
            raise


def _summary(vm: AttachedVm) -> str:
    classes = vm.stats()["classes"]
    parts = [
        f"{name}: " + ", ".join(f"{count} {what}" for what, count in counters.items())
        for name, counters in classes.items()
    ]
    return "; ".join(parts)
