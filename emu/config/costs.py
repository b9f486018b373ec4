"""Cost models: the latency to inject into each step, such as that of the RFC's machine.

The RFC of 1 March 2021 ("migration: stop/start device at the end of live migration concurrently",
qemu-devel) gives totals for 16 NICs with 32 rings and 24 disks with 4 rings. Divided by the number
of steps, they are unit costs, which apply to a VM of any shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from devices.procedure import Phase
from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from devices.procedure import Side


class RfcRow(NamedTuple):
    """A row of the RFC's table.

    Attributes:
        device_class: ``net`` or ``blk``.
        phase: the phase that corresponds to the RFC's step.
        serial_ms: one after the other, as QEMU does it ("Original").
        concurrent_ms: with the RFC's thread pool.
    """

    device_class: str
    phase: Phase
    serial_ms: float
    concurrent_ms: float


RFC_TABLE = (
    RfcRow("blk", Phase.GET_VRING_BASE, 36, 18),
    RfcRow("blk", Phase.DISABLE_GUEST_NOTIFY, 48, 32),
    RfcRow("blk", Phase.DISABLE_HOST_NOTIFY, 300, 120),
    RfcRow("net", Phase.GET_VRING_BASE, 1376, 294),
    RfcRow("net", Phase.DISABLE_HOST_NOTIFY, 1011, 116),
    RfcRow("net", Phase.DISABLE_GUEST_NOTIFY, 59, 40),
    RfcRow("net", Phase.ENABLE_GUEST_NOTIFY, 310, 97),
    RfcRow("net", Phase.SET_MEM_TABLE, 48, 20),
    RfcRow("net", Phase.ENABLE_HOST_NOTIFY, 2022, 114),
    RfcRow("blk", Phase.ENABLE_HOST_NOTIFY, 312, 78),
    RfcRow("blk", Phase.ENABLE_GUEST_NOTIFY, 32, 23),
    RfcRow("blk", Phase.SET_MEM_TABLE, 16, 10),
)
#: The whole downtime according to the RFC; the sum of the serial rows is 5570, of the others 962.
RFC_TOTAL_SERIAL_MS = 5600.0
RFC_TOTAL_CONCURRENT_MS = 962.0
#: Number of devices, and of rings of each, of the RFC's VM.
RFC_SHAPE: Mapping[str, tuple[int, int]] = {"net": (16, 32), "blk": (24, 4)}

_HOST_PHASE = {"src": Phase.DISABLE_HOST_NOTIFY, "dst": Phase.ENABLE_HOST_NOTIFY}
_GUEST_PHASE = {"src": Phase.DISABLE_GUEST_NOTIFY, "dst": Phase.ENABLE_GUEST_NOTIFY}
#: Phases with one step for each ring; the others have one for each device.
_PER_RING = frozenset({Phase.GET_VRING_BASE, *_HOST_PHASE.values()})
_BACKEND_OPTIONS = {
    Phase.GET_VRING_BASE: "--cost-get-vring-base",
    Phase.SET_MEM_TABLE: "--cost-set-mem-table",
}


def unit_ms(row: RfcRow) -> float:
    """Milliseconds of one step of a row's serial column, not rounded."""
    devices, rings = RFC_SHAPE[row.device_class]
    return row.serial_ms / (devices * rings if row.phase in _PER_RING else devices)


class CostModel:
    """The latency to inject into steps, in addition to the time that they take.

    Args:
        name: ``native`` or ``rfc2021``.
        units: (phase, device class) to milliseconds for one step.
    """

    def __init__(self, name: str, units: Mapping[tuple[Phase, str], float]) -> None:
        self.name = name
        self._units = dict(units)

    def __repr__(self) -> str:
        return f"CostModel({self.name!r})"

    @property
    def free(self) -> bool:
        """Whether no step has an injected latency."""
        return not self._units

    def unit(self, phase: Phase, device_class: str) -> float:
        """Seconds of one step: for a ring or for a device, according to the phase."""
        return self._units.get((phase, device_class), 0.0) / 1e3

    def host_commit(self, side: Side, classes: Collection[str]) -> float:
        """Seconds of a commit with host notifiers of these classes, however many notifiers."""
        phase = _HOST_PHASE[side]
        return max((self.unit(phase, device_class) for device_class in classes), default=0.0)

    def guest_device(self, side: Side, device_class: str) -> float:
        """Seconds for the guest notifiers of one device, all of its rings together."""
        return self.unit(_GUEST_PHASE[side], device_class)

    def backend_options(self, device_class: str) -> dict[str, str]:
        """Options of a back-end program of that class: ``{"--cost-set-mem-table": "3.0ms"}``."""
        return {
            option: f"{cost!r}ms"
            for phase, option in _BACKEND_OPTIONS.items()
            if (cost := self._units.get((phase, device_class)))
        }


NATIVE = CostModel("native", {})
RFC2021 = CostModel("rfc2021", {(row.phase, row.device_class): unit_ms(row) for row in RFC_TABLE})
MODELS = {model.name: model for model in (NATIVE, RFC2021)}


def by_name(name: str) -> CostModel:
    """The model of that name.

    Raises:
        EmuError: the name is unknown.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise EmuError(f"unknown cost model {name!r}: use {', '.join(MODELS)}") from None
