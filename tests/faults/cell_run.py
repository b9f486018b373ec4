"""Runs one cell on a pair of sides, and repairs the pair afterwards."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import CommandError, HangUpError
from emu.report.results import (
    COMPLETED,
    ROLLED_BACK,
    Integrity,
    integrity_between,
)
from tests.faults.cells import PROCESS, SOURCE, Cell
from tests.faults.pair import POLL
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject
    from tests.faults.pair import FaultyVmHost, Pair
    from tests.faults.switch import FaultSwitch

#: Seconds for one step of a device or of the peer (the migration parameter ``deadline``).
STEP_TIMEOUT = 2.0
#: Seconds for a whole cell: the fault, and the waits of a roll-back, take a timeout each.
LIMIT = 3 * STEP_TIMEOUT + TIMEOUT
#: Requests that complete before a fault is injected.
WORK = 100
_ENDS = ("completed", "failed", "cancelled")


class CellFailureError(AssertionError):
    """A check of the cell failed; the text has the reason."""


class CellResult(NamedTuple):
    """The result of a cell.

    Attributes:
        outcome: ``completed`` or ``rolled-back``.
        seconds: from the beginning of the migration until the VM was known to run at one side.
        error: the reason of a roll-back.
        again: requests that a back-end served twice, as neither side could know that they had
            been served: the guest saw each of them complete once.
    """

    outcome: str
    seconds: float
    error: str
    integrity: Integrity
    again: int


class CellRun:
    """One cell.

    Args:
        pair: both sides, with the VM under load at the source.
        cell: the fault.
    """

    def __init__(self, pair: Pair, cell: Cell) -> None:
        self._pair = pair
        self._cell = cell
        self._outcomes: dict[str, JsonObject] = {}

    def run(self) -> CellResult:
        """Run the cell.

        Raises:
            CellFailureError: a check failed.
            EmuError: the run cannot continue.
        """
        pair = self._pair
        parameters = {"parameters": {"deadline": STEP_TIMEOUT}}
        for side in pair.sides:
            side.execute("migrate-set-parameters", parameters)
            side.monitor.events.clear()
        self._await_work()
        self._expect_deaths()
        if self._cell.phase.any_strategy:
            result = self._inject_before_migration()
        else:
            result = self._inject()
        self._disarm()
        if result.outcome == COMPLETED:
            pair.swap(fleets=self._cell.hands_over)
        self._repair()
        self._check_places()
        integrity, again = self._check_requests()
        self._resume_load()
        return result._replace(integrity=integrity, again=again)

    def _await_work(self) -> None:
        """Return when requests of the guest have completed: a fault without load proves little."""
        pair = self._pair
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline:
            totals, _gap = pair.source.request_log()
            if totals.completed >= pair.log.completed + WORK:
                return
            pair.watcher.pause(POLL)
        raise CellFailureError("no request of the guest completes any more")

    # The fault

    def _inject_before_migration(self) -> CellResult:
        """The back-end fails while the destination is built, before the source is involved."""
        destination = self._pair.destination
        self._arm()
        begin = time.monotonic()
        error = ""
        try:
            destination.begin_incoming(self._pair.next_uri(), release=True)
            destination.await_incoming()
        except CommandError as failure:
            error = str(failure)
        seconds = time.monotonic() - begin
        self._judge(ROLLED_BACK, error, seconds)
        self._outcomes = {"src": {"status": "failed"}, "dst": {"status": "failed"}}
        return CellResult(ROLLED_BACK, seconds, error, Integrity(), 0)

    def _inject(self) -> CellResult:
        pair, cell = self._pair, self._cell
        pair.destination.begin_incoming(pair.next_uri(), handover=cell.hands_over, release=True)
        uri = pair.destination.await_incoming()
        self._arm()
        begin = time.monotonic()
        pair.source.execute("migrate", {"uri": uri, "strategy": cell.strategy, "options": {}})
        while not self._over():
            left = LIMIT - (time.monotonic() - begin)
            if left <= 0:
                raise CellFailureError(f"is not over after {LIMIT:g} s: {self._describe()}")
            self._listen(left)
        seconds = time.monotonic() - begin
        source = self._outcomes["src"]
        outcome = COMPLETED if source["status"] == "completed" else ROLLED_BACK
        error = str(source.get("error-desc", ""))
        self._judge(outcome, error, seconds)
        return CellResult(outcome, seconds, error, Integrity(), 0)

    def _judge(self, outcome: str, error: str, seconds: float) -> None:
        cell = self._cell
        if not all(switch.fired for switch in self._switches()):
            raise CellFailureError(f"the fault was never met: {outcome} {error}")
        if seconds > LIMIT:
            raise CellFailureError(f"took {seconds:.1f} s, and may take {LIMIT:g}")
        if outcome == COMPLETED:
            if self._outcomes["dst"].get("status") != "completed":
                raise CellFailureError(f"the VM has moved and is lost: {self._outcomes['dst']}")
            return
        if cell.phase.committed:
            raise CellFailureError(f"was rolled back although the VM had moved: {error}")
        if not error:
            raise CellFailureError("was rolled back without a reason")
        if self._device_is_lost() and cell.device not in error:
            raise CellFailureError(f"{cell.device} is not named: {error}")

    def _device_is_lost(self) -> bool:
        """Whether the migration, or the roll-back, must fail because of the device.

        In a roll-back a device may be reconnected, and then there is nothing to report.
        """
        phase, fault = self._cell.phase, self._cell.fault
        return phase.place != PROCESS and (not phase.rolls_back or fault in ("die", "hang"))

    def _over(self) -> bool:
        source = self._outcomes.get("src")
        if source is None:
            return False
        return source["status"] != "completed" or "dst" in self._outcomes

    def _listen(self, timeout: float) -> None:
        pair = self._pair
        sides = {"src": pair.source, "dst": pair.destination}
        waiting = [side for role, side in sides.items() if role not in self._outcomes]
        pair.watcher.wait([side.monitor.fileno() for side in waiting], timeout)
        for role, side in sides.items():
            if role not in self._outcomes:
                self._take_events(role, side)

    def _take_events(self, role: str, side: FaultyVmHost) -> None:
        try:
            side.monitor.receive()
        except HangUpError:
            if role == "src" or self._cell.phase.place != PROCESS:
                raise CellFailureError(f"the process of VM {side.name} has ended") from None
            self._outcomes[role] = {"status": "gone"}
        while side.monitor.events:
            event = side.monitor.events.popleft()
            if event.name == "MIGRATION" and event.data.get("status") in _ENDS:
                self._outcomes[role] = event.data

    def _describe(self) -> str:
        ended = [f"{role} {data.get('status')}" for role, data in self._outcomes.items()]
        return ", ".join(ended) or "no side has reported an end"

    # Switches

    def _faulty_side(self) -> FaultyVmHost:
        return self._pair.source if self._cell.phase.place == SOURCE else self._pair.destination

    def _switches(self) -> list[FaultSwitch]:
        phase, side = self._cell.phase, self._faulty_side()
        own = side.switch if phase.place == PROCESS else side.backends.switches[self._cell.device]
        return [own, self._pair.destination.switch] if phase.rolls_back else [own]

    def _arm(self) -> None:
        cell = self._cell
        own, *others = self._switches()
        own.arm(cell.point, cell.fault, cell.nth)
        for switch in others:
            switch.arm("after SWITCHOVER", "refuse")

    def _disarm(self) -> None:
        for switch in self._switches():
            switch.disarm()

    def _expect_deaths(self) -> None:
        if self._cell.fault != "die":
            return
        if self._cell.phase.place == PROCESS:
            self._pair.destination.expect_death()
        else:
            self._faulty_side().backends.expect_death(self._cell.device)

    # Afterwards

    def _repair(self) -> None:
        """Restart the process that has ended or hangs."""
        cell, pair = self._cell, self._pair
        if cell.phase.place == PROCESS:
            if cell.fault in ("die", "hang"):
                pair.destination.replace_process()
        elif cell.fault in ("die", "hang"):
            side = self._side_of_fault_now()
            side.backends.restart(cell.device)

    def _side_of_fault_now(self) -> FaultyVmHost:
        """The faulty side; the sides may have changed their roles since the fault."""
        completed = self._outcomes["src"]["status"] == "completed"
        at_source = self._cell.phase.place == SOURCE
        return self._pair.destination if at_source is completed else self._pair.source

    def _check_places(self) -> None:
        """Check that the VM runs at the present source, and not at the other side."""
        pair = self._pair
        here = pair.source.execute("query-status")
        if not here["running"]:
            raise CellFailureError(f"the VM does not run at its side: {here['status']}")
        there = pair.destination.execute("query-status")
        if there["running"]:
            raise CellFailureError("the VM runs at both sides")
        for side in (pair.source, pair.destination):
            if not side.await_childless(TIMEOUT):
                raise CellFailureError(f"the process of VM {side.name} has left processes behind")

    def _check_requests(self) -> tuple[Integrity, int]:
        """Stop the load and compare the request log, the images and what was served."""
        pair, side = self._pair, self._pair.source
        try:
            side.execute("x-quiesce", {"timeout": TIMEOUT}, timeout=2 * TIMEOUT)
        except CommandError as error:
            raise CellFailureError(f"requests did not complete: {error}") from None
        after, _gap = side.request_log()
        served = sum(each.backends.served() for each in pair.sides)
        again = (served - pair.served) - (after.completed - pair.log.completed)
        integrity = integrity_between(pair.log, after, side.verify().corrupted)
        pair.log, _gap = side.request_log()
        pair.served = sum(each.backends.served() for each in pair.sides)
        if not integrity.clean or after.outstanding or again < 0:
            raise CellFailureError(
                f"requests: {integrity.failures()}; outstanding {after.outstanding}, again {again}"
            )
        if not integrity.requests:
            raise CellFailureError("the guest has submitted no requests")
        if again and not self._may_repeat():
            raise CellFailureError(f"{again} requests were served twice")
        return integrity, again

    def _may_repeat(self) -> bool:
        """Whether requests that were served, but not completed, may be served again.

        Either the back-end that knew of them has gone, or it is the destination's, whose memory
        has gone.
        """
        phase = self._cell.phase
        if phase.place == SOURCE or phase.rolls_back:
            return True
        return phase.point in ("SET_VRING_ENABLE", "before READY", "SET_VRING_BASE")

    def _resume_load(self) -> None:
        """Resume the load."""
        self._pair.source.execute("x-resume-load")
