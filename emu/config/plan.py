"""The plan of a run: its settings, after all of them have been checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from emu.config.device_kinds import KINDS
from emu.config.migration_parameters import Parameters

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from emu.config.backend_commands import BackEndCommand
    from emu.config.vm_spec import VmSpec

COSTS = ("native", "rfc2021")
CONTROLS = ("per-device", "shared")
STOP_POLICIES = ("immediate", "drain", "tick")
LOADS = ("none", "light", "heavy")
TRANSPORTS = ("unix", "tcp")
NETWORKS = ("loopback", "netns")


@dataclass(frozen=True, slots=True)
class DiskFile:
    """The user's file behind the first disk.

    Attributes:
        path: absolute.
        size: bytes, a multiple of 512.
        writable: whether the guest may change the file.
    """

    path: Path
    size: int
    writable: bool


@dataclass(frozen=True, slots=True)
class MachinePlan:
    """One VM and its back-ends.

    Attributes:
        spec: the shape.
        accel: a name of `emu.machine.accel.registry.CHOICES`.
        costs: the cost model whose latency is injected, one of `COSTS`.
        control: the back-ends' control plane, one of `CONTROLS`.
        stop_time: nanoseconds that each back-end takes to stop.
        stop_policy: one of `STOP_POLICIES`.
        load: one of `LOADS`.
        dirty_rate: bytes a second that the guest's dirty-memory load writes, 0 for none.
        disk: the file behind the first disk, unless it is a scratch image.
        images: directory of the scratch images; None for the run's own directory.
        plugins: absolute paths of Python files with further strategies, for the VM's process.
        back_ends: commands of other back-end programs, by class of devices.
        listening: sockets of back-ends that the user has started, by class of devices: for each
            side, ``A`` and ``B``, those of its devices in order.
    """

    spec: VmSpec
    accel: str = "soft"
    costs: str = "native"
    control: str = "per-device"
    stop_time: int = 0
    stop_policy: str = "immediate"
    load: str = "heavy"
    dirty_rate: int = 0
    disk: DiskFile | None = None
    images: Path | None = None
    plugins: tuple[Path, ...] = ()
    back_ends: Mapping[str, BackEndCommand] = field(default_factory=dict)
    listening: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)

    @property
    def other_back_ends(self) -> dict[str, str]:
        """The commands of `back_ends`, or ``sockets`` for those of `listening`, by class."""
        found = {name: command.text for name, command in self.back_ends.items()}
        return found | dict.fromkeys(self.listening, "sockets")

    @property
    def counted(self) -> bool:
        """Whether all back-ends whose requests the guest's log counts have counters, too."""
        return not any(
            self.others_serve(name) for name, kind in KINDS.items() if "requests" in kind.counters
        )

    def others_serve(self, device_class: str) -> bool:
        """Whether the devices of this class are served by other back-ends than this project's."""
        return device_class in self.back_ends or device_class in self.listening


@dataclass(frozen=True, slots=True)
class MigrationPlan:
    """Migrations of one VM, in turn, back and forth between two processes.

    Attributes:
        machine: the VM.
        strategies: in the order in which they run.
        handing_over: those of them that pass the devices to the destination.
        strict_downtime: a run fails if its downtime figures contradict each other.
        repeat: how often the whole sequence runs.
        via: transport of the stream, one of `TRANSPORTS`.
        network: network between the VM and the client outside, one of `NETWORKS`.
        options: of the strategies, such as ``{"threads": 8}``.
        parameters: of each migration.
    """

    machine: MachinePlan
    strategies: tuple[str, ...]
    repeat: int = 1
    via: str = "unix"
    options: dict[str, Any] = field(default_factory=dict)
    parameters: Parameters = field(default_factory=Parameters)
    network: str = "loopback"
    handing_over: Collection[str] = ()
    strict_downtime: bool = False

    @property
    def sequence(self) -> list[tuple[str, int]]:
        """Strategy and number of the repetition (from 1) of every migration, in order."""
        return [(name, n) for n in range(1, self.repeat + 1) for name in self.strategies]
