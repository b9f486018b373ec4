"""What the RFC's machine paid per step, to be paid again where this one is faster.

The RFC of 1 March 2021 ("migration: stop/start device at the end of live migration concurrently",
qemu-devel) gives totals for 16 NICs with 32 rings and 24 disks with 4 rings. Divided by how often
each step was taken, they are unit costs that can be laid upon a VM of any shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from emu.errors import EmuError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

Side = Literal["src", "dst"]


class RfcRow(NamedTuple):
    """A row of the RFC's table.

    Attributes:
        side: ``src`` or ``dst``.
        device_class: ``net`` or ``blk``.
        phase: in this project's words (`devices.procedure.PHASES`).
        serial_ms: one after the other, as QEMU does it ("Original").
        concurrent_ms: with the RFC's thread pool.
    """

    side: Side
    device_class: str
    phase: str
    serial_ms: float
    concurrent_ms: float


RFC_TABLE = (
    RfcRow("src", "blk", "src.get_vring_base", 36, 18),
    RfcRow("src", "blk", "src.disable_guest_notify", 48, 32),
    RfcRow("src", "blk", "src.disable_host_notify", 300, 120),
    RfcRow("src", "net", "src.get_vring_base", 1376, 294),
    RfcRow("src", "net", "src.disable_host_notify", 1011, 116),
    RfcRow("src", "net", "src.disable_guest_notify", 59, 40),
    RfcRow("dst", "net", "dst.enable_guest_notify", 310, 97),
    RfcRow("dst", "net", "dst.set_mem_table", 48, 20),
    RfcRow("dst", "net", "dst.enable_host_notify", 2022, 114),
    RfcRow("dst", "blk", "dst.enable_host_notify", 312, 78),
    RfcRow("dst", "blk", "dst.enable_guest_notify", 32, 23),
    RfcRow("dst", "blk", "dst.set_mem_table", 16, 10),
)
#: What the RFC gives as the whole downtime; the serial rows come to 5570, the others to 962.
RFC_TOTAL_SERIAL_MS = 5600.0
RFC_TOTAL_CONCURRENT_MS = 962.0
#: (devices, rings of each) of the RFC's VM.
RFC_SHAPE: Mapping[str, tuple[int, int]] = {"net": (16, 32), "blk": (24, 4)}

_HOST_PHASE = {"src": "src.disable_host_notify", "dst": "dst.enable_host_notify"}
_GUEST_PHASE = {"src": "src.disable_guest_notify", "dst": "dst.enable_guest_notify"}
#: Steps that are taken once for each ring; the others once for each device.
_PER_RING = frozenset({"src.get_vring_base", *_HOST_PHASE.values()})
_BACKEND_OPTIONS = {
    "src.get_vring_base": "--cost-get-vring-base",
    "dst.set_mem_table": "--cost-set-mem-table",
}


def unit_ms(row: RfcRow) -> float:
    """Milliseconds of one step of a row's serial column, not rounded."""
    devices, rings = RFC_SHAPE[row.device_class]
    return row.serial_ms / (devices * rings if row.phase in _PER_RING else devices)


class CostModel:
    """What steps cost beyond what they take by themselves.

    Args:
        name: ``native`` or ``rfc2021``.
        units: (phase, device class) to milliseconds for one step.
    """

    def __init__(self, name: str, units: Mapping[tuple[str, str], float]) -> None:
        self.name = name
        self._units = dict(units)

    def __repr__(self) -> str:
        return f"CostModel({self.name!r})"

    @property
    def free(self) -> bool:
        """Whether nothing costs anything."""
        return not self._units

    def unit(self, phase: str, device_class: str) -> float:
        """Seconds of one step: of a ring, or of a device, as the phase has it."""
        return self._units.get((phase, device_class), 0.0) / 1e3

    def host_commit(self, side: Side, classes: Collection[str]) -> float:
        """Seconds that a commit with host notifiers of these classes takes, however many."""
        phase = _HOST_PHASE[side]
        return max((self.unit(phase, device_class) for device_class in classes), default=0.0)

    def guest_device(self, side: Side, device_class: str) -> float:
        """Seconds that the guest notifiers of one device take, all of its rings together."""
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
        EmuError: there is none.
    """
    try:
        return MODELS[name]
    except KeyError:
        raise EmuError(f"no costs {name!r}: there is {', '.join(MODELS)}") from None
