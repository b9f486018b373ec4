"""What KVM can do on this host, and what it lacks, in words."""

from __future__ import annotations

from typing import NamedTuple

from emu.machine.accel import kvm_vm
from emu.machine.accel.kvm_vm import KvmError

# KVM_CAP_* of linux/kvm.h.
_IRQ_ROUTING, _MAX_VCPUS = 25, 66
_NEEDED = {
    0: "an interrupt controller in the kernel (KVM_CAP_IRQCHIP)",
    3: "guest memory of the user's (KVM_CAP_USER_MEMORY)",
    14: "halted vCPUs (KVM_CAP_MP_STATE)",
    _IRQ_ROUTING: "interrupt routes (KVM_CAP_IRQ_ROUTING)",
    32: "irqfds (KVM_CAP_IRQFD)",
    36: "ioeventfds (KVM_CAP_IOEVENTFD)",
    41: "the events of a vCPU (KVM_CAP_VCPU_EVENTS)",
    77: "message-signalled interrupts (KVM_CAP_SIGNAL_MSI)",
    129: "more than 255 local APICs (KVM_CAP_X2APIC_API)",
    136: "leaving a vCPU at once (KVM_CAP_IMMEDIATE_EXIT)",
}
#: NR_IOBUS_DEVS of linux/kvm_host.h: devices on the bus of memory, and on that of ports. An
#: ioeventfd is one.
BUS_DEVICES = 1000
#: Those of the kernel's own, generously: interrupt controllers.
_KERNELS_OWN = 8
BUS_ROOM = BUS_DEVICES - _KERNELS_OWN


class Limits(NamedTuple):
    """Of one VM.

    Attributes:
        max_vcpus: each takes a place on the bus of ports, to tell the drivers by.
        max_routes: interrupt routes; a ring has one.
    """

    max_vcpus: int
    max_routes: int


def missing() -> list[str]:
    """What KVM would need and this host's has not got.

    Raises:
        KvmError: there is no KVM at all.
    """
    version = kvm_vm.api_version()
    if version != kvm_vm.API_VERSION:
        raise KvmError(f"KVM's interface is version {version}, not {kvm_vm.API_VERSION}")
    return [text for number, text in _NEEDED.items() if not kvm_vm.capability(number)]


def limits() -> Limits:
    """How large a VM may be.

    Raises:
        KvmError: there is no KVM, or it lacks something.
    """
    lacks = missing()
    if lacks:
        raise KvmError(f"this host's KVM is without {', '.join(lacks)}: use --accel soft")
    vcpus = kvm_vm.capability(_MAX_VCPUS)
    return Limits(min(vcpus, BUS_ROOM), kvm_vm.capability(_IRQ_ROUTING))


def check(vcpus: int, rings: int) -> None:
    """Whether KVM works here, for a VM of that size.

    Raises:
        KvmError: it does not; says what to do.
    """
    most = limits()
    if vcpus > most.max_vcpus:
        raise KvmError(f"{vcpus} vCPUs: this host's KVM has {most.max_vcpus} at the most")
    if rings > most.max_routes:
        raise KvmError(
            f"{rings} rings: KVM has {most.max_routes} interrupt routes: ask for fewer rings, or "
            "use --accel soft"
        )
    if rings > max_doorbells(vcpus):
        raise KvmError(f"{rings} rings: {no_room(vcpus)}")


def has_room(vcpus: int, rings: int) -> bool:
    """Whether `check` finds nothing."""
    try:
        check(vcpus, rings)
    except KvmError:
        return False
    return True


def no_room(vcpus: int) -> str:
    """Why there are no more doorbells than there are."""
    return (
        f"KVM has room for {BUS_DEVICES} devices on the bus of memory and as many on that of "
        f"ports, and with {vcpus} vCPUs that makes {max_doorbells(vcpus)} doorbells: ask for "
        "fewer rings or vCPUs, or use --accel soft"
    )


def max_doorbells(vcpus: int) -> int:
    """How many ioeventfds the rings may have: on the bus of memory, and what is left of ports."""
    return BUS_ROOM + BUS_ROOM - vcpus
