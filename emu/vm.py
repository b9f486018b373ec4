"""A whole VM: machine, guest and devices, from power-on to power-off."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from devices import lifecycle
from devices.blk import VhostUserBlk
from devices.device import SharedMemory, VhostDevice
from devices.net import VhostUserNet
from devices.procedure import Procedure
from emu.costs import CostModel
from emu.guest.program import GuestProgram
from emu.machine import Machine
from emu.migration.strategies.split import Split
from emu.migration.strategies.task import Stage, Task
from emu.migration.timeline import Timeline
from emu.shape import VmSpec
from vhost_user import eventfd

DEVICE_TYPES: Mapping[str, Callable[..., VhostDevice]] = {
    VhostUserBlk.device_class: VhostUserBlk,
    VhostUserNet.device_class: VhostUserNet,
}
#: Seconds that a device, or a vCPU, may take for anything.
DEADLINE = 10.0
_PAGE = 4096


class Vm:
    """A VM and its vhost-user devices.

    Args:
        spec: its shape.
        accel: ``auto``, ``soft`` or ``kvm``.
        costs: what the machine's notifiers cost beyond what they cost anyway.
        backends: socket path of each device's back-end, by the device's name.
    """

    def __init__(
        self, spec: VmSpec, *, accel: str, costs: CostModel, backends: Mapping[str, str]
    ) -> None:
        self.spec = spec
        self.machine = Machine(spec, accel=accel, costs=costs)
        self.devices: list[VhostDevice] = []
        self._backends = backends
        self._eventfds = eventfd.default()
        try:
            self.guest = GuestProgram(spec, self.machine)
            self._add_devices()
            self.machine.start_vcpus(self.guest)
        except BaseException:
            self.close()
            raise

    def _add_devices(self) -> None:
        memory = [SharedMemory(part.gpa, part.size, part.fd) for part in self.machine.ram.regions]
        for index, spec in enumerate(self.spec.devices):
            rings = range(spec.rings)
            device = DEVICE_TYPES[spec.device_class](
                spec.name,
                [self.machine.doorbell(index, ring) for ring in rings],
                [self.machine.vector(index, ring) for ring in rings],
            )
            device.memory = memory
            self.devices.append(device)
            self.machine.set_device_handler(index, device.kick)

    def connect(self) -> None:
        """Connect every device to its back-end.

        Raises:
            VhostUserError: one is not there, or is not what the VM needs.
        """
        for device in self.devices:
            device.connect(self._backends[device.name], deadline=DEADLINE)

    def boot(self) -> None:
        """Power on: the guest's drivers set their rings up, the devices start, the vCPUs run."""
        self.guest.boot()
        for index, device in enumerate(self.devices):
            device.set_up_rings(self.guest.layout.ring_addresses(index))
        self.start_devices()
        self.resume_vcpus(DEADLINE)

    def attach(self) -> None:
        """A VM will come by migration: the guest only looks at its memory, and waits for it."""
        self.guest.attach()

    def start_devices(self) -> None:
        """Start every device that is stopped."""
        self.drive(lifecycle.start(device) for device in self.devices)
        self.signal_all_rings()

    def stop_devices(self) -> None:
        """Stop every device that runs."""
        self.drive(lifecycle.stop(device) for device in self.devices)

    def drive(self, procedures: Iterable[Procedure]) -> None:
        """Run one procedure for each device, all in flight, outside of any comparison."""
        tasks = [
            Task(device.name, device.device_class, procedure)
            for device, procedure in zip(self.devices, procedures, strict=True)
        ]
        Split().drive(tasks, Stage(self.machine, Timeline("src"), DEADLINE))

    def signal_all_rings(self) -> None:
        """Kick and call every started ring once, so that nothing that was pending is lost."""
        self._eventfds.signal([fd for device in self.devices for fd in device.notifier_fds()])

    def pause_vcpus(self, deadline: float = DEADLINE) -> None:
        """Stop all vCPUs; returns when none runs guest code."""
        self.machine.vcpus.pause(deadline)

    def resume_vcpus(self, deadline: float = DEADLINE) -> None:
        """Let all vCPUs run; returns when each one that had been running runs again."""
        self.machine.vcpus.resume(deadline)

    @property
    def log_pages(self) -> int:
        """Pages that a dirty log covers: from address 0 to the end of memory."""
        return max(part.gpa + part.size for part in self.machine.ram.regions) // _PAGE

    def shape(self) -> dict[str, object]:
        """What must be the same on both sides of a migration."""
        return {
            "vcpus": self.spec.vcpus,
            "memory": self.spec.memory_bytes,
            "ring_size": self.spec.ring_size,
            "devices": [f"{device.name}x{device.rings}" for device in self.spec.devices],
        }

    def disconnect(self) -> None:
        """Close all connections; the back-ends drop their rings."""
        for device in self.devices:
            device.disconnect()

    def close(self) -> None:
        """Power off. May be called in any state, and twice."""
        self.machine.vcpus.stop()
        for device in self.devices:
            device.close()
        self.machine.close()
