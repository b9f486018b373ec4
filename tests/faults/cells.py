"""The cells of the matrix: phases of a migration x faults x places x strategies."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.strategies.registry import STRATEGIES
from tests.faults.switch import FAULTS

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE, DESTINATION, PROCESS = "source back-end", "destination back-end", "destination process"
#: The devices that fail, in turn: one disk and one NIC of the VM.
FAULTY_DEVICES = ("blk1", "net0")
RINGS = {"blk1": 2, "net0": 4}
#: This strategy passes on the back-ends' sockets: the destination sends no message to back-ends of
#: its own, and those of the source are neither stopped nor started.
HANDOVER = "handover"
#: The section of its stream in place of the devices' description.
_SECTIONS = {"after DEVICES": "after HANDOVER"}


class Phase(NamedTuple):
    """A point of a migration at one place.

    Attributes:
        place: whose fault it is.
        name: for tables and for ``ONLY``.
        point: what the program that fails passes: a message, or a point of the stream.
        each_ring: it fails at the last ring, not at the first.
        rolls_back: the destination refuses the switch-over, so that the source's devices start
            again, which is when this fault strikes.
        any_strategy: no strategy is at work yet, so that one stands for all.
        committed: the VM is the destination's already.
    """

    place: str
    name: str
    point: str
    each_ring: bool = False
    rolls_back: bool = False
    any_strategy: bool = False
    committed: bool = False


PHASES = (
    Phase(SOURCE, "log base", "SET_LOG_BASE"),
    Phase(SOURCE, "log flags", "SET_VRING_ADDR", each_ring=True),
    Phase(SOURCE, "stop first ring", "GET_VRING_BASE"),
    Phase(SOURCE, "stop last ring", "GET_VRING_BASE", each_ring=True),
    Phase(SOURCE, "back: memory table", "SET_MEM_TABLE", rolls_back=True),
    Phase(SOURCE, "back: base", "SET_VRING_BASE", rolls_back=True),
    Phase(SOURCE, "back: enable", "SET_VRING_ENABLE", each_ring=True, rolls_back=True),
    Phase(DESTINATION, "connect", "GET_FEATURES", any_strategy=True),
    Phase(DESTINATION, "features", "SET_FEATURES"),
    Phase(DESTINATION, "memory table", "SET_MEM_TABLE"),
    Phase(DESTINATION, "size", "SET_VRING_NUM"),
    Phase(DESTINATION, "kick", "SET_VRING_KICK", each_ring=True),
    Phase(DESTINATION, "addresses", "SET_VRING_ADDR"),
    Phase(DESTINATION, "base", "SET_VRING_BASE", each_ring=True),
    Phase(DESTINATION, "enable first ring", "SET_VRING_ENABLE"),
    Phase(DESTINATION, "enable last ring", "SET_VRING_ENABLE", each_ring=True),
    Phase(PROCESS, "handshake", "after HELLO"),
    Phase(PROCESS, "devices", "after DEVICES"),
    Phase(PROCESS, "memory", "after RAM"),
    Phase(PROCESS, "prepared", "before PREPARED"),
    Phase(PROCESS, "switch-over", "after SWITCHOVER"),
    Phase(PROCESS, "started", "before READY"),
    Phase(PROCESS, "running", "before RUNNING", committed=True),
    Phase(PROCESS, "over", "after RUNNING", committed=True),
)


class Cell(NamedTuple):
    """One cell: the fault, its place and phase, and the strategy."""

    phase: Phase
    fault: str
    strategy: str

    @property
    def name(self) -> str:
        """The name for ``ONLY``."""
        place, name = self.phase.place.replace(" ", "-"), self.phase.name.replace(" ", "-")
        return f"{self.strategy}:{place}:{name.replace(':', '')}:{self.fault}"

    @property
    def hands_over(self) -> bool:
        """Whether the VM keeps its back-ends in the migration."""
        return self.strategy == HANDOVER

    @property
    def point(self) -> str:
        """The point at which the program fails."""
        point = self.phase.point
        return _SECTIONS.get(point, point) if self.hands_over else point

    @property
    def device(self) -> str:
        """The device whose back-end fails; neighbours in the table differ."""
        turn = PHASES.index(self.phase) + FAULTS.index(self.fault)
        return FAULTY_DEVICES[(turn + list(STRATEGIES).index(self.strategy)) % 2]

    @property
    def nth(self) -> int:
        """The number of the message at which it fails, from 1."""
        rings = RINGS[self.device]
        if self.phase.point == "SET_VRING_ENABLE" and self.phase.rolls_back:
            # This strategy disables a disk's rings before it stops them, with the same message.
            before = rings if self.strategy == "qemu-now" and self.device.startswith("blk") else 0
            return before + rings
        return rings if self.phase.each_ring else 1

    @property
    def impossible(self) -> str:
        """The reason why the cell is impossible, or an empty text."""
        phase = self.phase
        if phase.any_strategy and self.strategy != next(iter(STRATEGIES)):
            return "no strategy is at work yet: the first one stands for all"
        if phase.committed and self.fault in ("die", "hang"):
            return "the VM has moved: its process takes it along, as any process would"
        if phase.committed and self.fault == "refuse":
            return "the VM has moved: there is nothing left to refuse"
        if self.hands_over:
            if phase.place == DESTINATION:
                return "handover has no back-ends of the destination's own"
            if phase.place == SOURCE:
                return "handover asks the back-ends nothing: they are neither stopped nor logged"
            if phase.name == "memory":
                return "handover sends no memory"
        return ""


def all_cells() -> Iterator[Cell]:
    """All cells, also impossible ones, grouped by strategy."""
    for strategy in STRATEGIES:
        for phase in PHASES:
            for fault in FAULTS:
                yield Cell(phase, fault, strategy)
