"""KVM's limits on this host, and its missing capabilities."""

from __future__ import annotations

from emu.machine.accel import kvm_vm
from emu.machine.accel.base import Limits
from emu.machine.accel.kvm_vm import KvmError

# KVM_CAP_* of linux/kvm.h.
_IRQ_ROUTING, _MAX_VCPUS = 25, 66
_NEEDED = {
    0: "an interrupt controller in the kernel (KVM_CAP_IRQCHIP)",
    3: "guest memory of a user process (KVM_CAP_USER_MEMORY)",
    14: "halted vCPUs (KVM_CAP_MP_STATE)",
    _IRQ_ROUTING: "interrupt routes (KVM_CAP_IRQ_ROUTING)",
    32: "irqfds (KVM_CAP_IRQFD)",
    36: "ioeventfds (KVM_CAP_IOEVENTFD)",
    41: "the events of a vCPU (KVM_CAP_VCPU_EVENTS)",
    77: "message-signalled interrupts (KVM_CAP_SIGNAL_MSI)",
    129: "more than 255 local APICs (KVM_CAP_X2APIC_API)",
    136: "leaving a vCPU at once (KVM_CAP_IMMEDIATE_EXIT)",
}
#: NR_IOBUS_DEVS of linux/kvm_host.h: devices on the MMIO bus, and on the port bus. An ioeventfd
#: counts as a device.
BUS_DEVICES = 1000
#: The most devices of the kernel itself, which are interrupt controllers.
_KERNEL_DEVICES = 8
#: The most ioeventfds on one bus.
BUS_ROOM = BUS_DEVICES - _KERNEL_DEVICES


def missing() -> list[str]:
    """The capabilities that are needed and that this host's KVM lacks.

    Raises:
        KvmError: KVM does not work on this host.
    """
    version = kvm_vm.api_version()
    if version != kvm_vm.API_VERSION:
        raise KvmError(f"KVM's interface is version {version}, not {kvm_vm.API_VERSION}")
    return [text for number, text in _NEEDED.items() if not kvm_vm.capability(number)]


def limits(vcpus: int = 1) -> Limits:
    """The limits of a VM with ``vcpus`` vCPUs on this host.

    Raises:
        KvmError: there is no KVM, or a capability is missing.
    """
    lacks = missing()
    if lacks:
        raise KvmError(f"this host's KVM lacks {', '.join(lacks)}: use --accel soft")
    return Limits(
        # Each vCPU needs an ioeventfd on the port bus, by which it notifies the drivers.
        max_vcpus=min(kvm_vm.capability(_MAX_VCPUS), BUS_ROOM),
        max_routes=kvm_vm.capability(_IRQ_ROUTING),
        max_ioeventfds=max_ioeventfds(vcpus),
    )


def no_room(vcpus: int) -> str:
    """The error text when both buses are full."""
    return (
        f"KVM has room for {BUS_DEVICES} devices on the MMIO bus and as many on the port bus, and "
        f"with {vcpus} vCPUs that makes {max_ioeventfds(vcpus)} ioeventfds of rings"
    )


def max_ioeventfds(vcpus: int) -> int:
    """Number of ioeventfds that rings may have: the MMIO bus, and the ports without the vCPUs'."""
    return BUS_ROOM + BUS_ROOM - vcpus
