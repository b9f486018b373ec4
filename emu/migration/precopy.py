"""The memory that goes while the VM runs: rounds, until little enough is left."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from emu.migration.ram_sync import RamSync, total
from emu.migration.timeline import now

if TYPE_CHECKING:
    from emu.migration.parameters import Parameters
    from emu.migration.stream import MigrationStream
    from emu.ram import GuestRam

#: The switch-over follows a round that leaves less than this to send.
SMALL_ENOUGH = 1 << 20
MAX_ROUNDS = 12

#: Called with the name of an event (as QMP has it) and its data.
Observer = Callable[[str, dict[str, object]], None]


class Precopied(NamedTuple):
    """What was sent while the VM ran: rounds, bytes, nanoseconds."""

    rounds: int = 0
    bytes: int = 0
    ns: int = 0


class Precopy:
    """Sends memory in rounds while the VM runs.

    Args:
        ram: the guest's memory.
        sync: says what is dirty.
        stream: where it goes.
        parameters: what it may take.
        observe: told of every round.

    Attributes:
        sent: what has been sent so far.
    """

    def __init__(
        self,
        ram: GuestRam,
        sync: RamSync,
        stream: MigrationStream,
        parameters: Parameters,
        observe: Observer,
    ) -> None:
        self.sent = Precopied()
        self._ram = ram
        self._sync = sync
        self._stream = stream
        self._parameters = parameters
        self._observe = observe

    def run(self, check: Callable[[], None]) -> None:
        """All rounds: until little is left, or it does not get less any more.

        Args:
            check: called between two rounds; raises when the migration is to be given up.
        """
        stream = self._stream
        start = now()
        runs = self._sync.everything()
        before = left = total(runs)
        for number in range(1, MAX_ROUNDS + 1):
            check()
            stream.send_ram(self._ram, runs)
            runs = self._sync.dirty()
            before, left = left, total(runs)
            self.sent = Precopied(number, stream.bytes_sent, now() - start)
            self._observe(
                "MIGRATION_PASS",
                {"pass": number, "remaining": left, "bytes": stream.bytes_sent},
            )
            if number > 1 and (left < SMALL_ENOUGH or left > before * 0.9):
                break
        stream.send_ram(self._ram, runs)
        self.sent = Precopied(number + 1, stream.bytes_sent, now() - start)
