"""The programs that cells are tried on, and the cells of the whole matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from tests.backends.served import KINDS
from tests.hostile.commands import addresses, files, peers
from tests.hostile.commands.command import Commands
from tests.hostile.front_end import (
    bounds,
    framing,
    messages,
    requests,
    rings,
    shared_memory,
    wrong_descriptors,
)
from tests.hostile.front_end.program import BackEndProgram
from tests.hostile.migration import destinations, sources, tls
from tests.hostile.migration.incoming import Incoming
from tests.hostile.vm import back_ends, qmp_clients
from tests.hostile.vm.attached import Attached

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.hostile.cell import Cell, Verdict


class Program(Protocol):
    """A running program, on which cells are tried one after another."""

    def run(self, cell: Cell) -> Verdict:
        """Try a cell."""
        ...

    def end(self) -> str:
        """End it with SIGTERM; what was wrong with its end, or ""."""
        ...

    def discard(self) -> None:
        """Kill it, after a cell that was not ok."""
        ...


def start(program: str, folder: Path, neighbour_limit: float | None) -> Program:
    """Start the program of some cells."""
    if program in _OTHERS:
        return _OTHERS[program](folder, neighbour_limit)
    return BackEndProgram(program, folder, neighbour_limit)


_FRONT_ENDS = (
    framing.cells,
    messages.cells,
    wrong_descriptors.cells,
    rings.cells,
    requests.cells,
    shared_memory.cells,
    bounds.cells,
)

_VMS = (
    back_ends.cells,
    qmp_clients.cells,
    sources.cells,
    tls.cells,
    destinations.cells,
    files.cells,
    addresses.cells,
    peers.cells,
)
#: Programs other than those that serve a kind of device.
_OTHERS: dict[str, Callable[[Path, float | None], Program]] = {
    "attach": Attached,
    "incoming": Incoming,
    "command": Commands,
}


def all_cells() -> Iterator[Cell]:
    """The whole matrix."""
    for make in _FRONT_ENDS:
        for kind in KINDS:
            yield from make(kind)
    for make_vm in _VMS:
        yield from make_vm()
