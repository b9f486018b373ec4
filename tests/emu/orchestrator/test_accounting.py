"""The guest's request log against the back-ends' counters."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from emu.errors import EmuError
from emu.guest.request_log import RequestLog
from emu.orchestrator.accounting import RequestAccounting
from emu.orchestrator.vm_host import Verified
from emu.report.proofs import Proof
from emu.report.results import Integrity

if TYPE_CHECKING:
    from emu.orchestrator.vm_host import VmHost


class Counted:
    """A side whose request log and counters the test sets."""

    def __init__(self) -> None:
        self.backends = self
        self.counted = True
        self.counters_match = True
        self.logs: list[RequestLog] = []
        self.counters: list[int] = []
        self.wrong = 0
        self.all_images = True
        self.lacking = ""

    def shortage(self) -> str:
        """The text that the test has set."""
        return self.lacking

    def quiesce(self) -> None:
        """Do nothing: no request is outstanding."""

    def request_log(self) -> tuple[RequestLog, float]:
        """The next log."""
        return self.logs.pop(0), 0.0

    def served(self) -> int:
        """The next counter."""
        return self.counters.pop(0)

    def verify(self) -> Verified:
        """The number of wrong blocks that the test has set."""
        return Verified(self.wrong, self.all_images)


def totals(requests: int, completed: int) -> RequestLog:
    """A log without failures."""
    return RequestLog(requests=requests, completed=completed)


@pytest.mark.parametrize(("served", "lost", "duplicated"), [(10, 0, 0), (12, 0, 2), (9, 1, 0)])
def test_served_and_completed_requests_must_agree(served: int, lost: int, duplicated: int) -> None:
    """Further served requests are duplicated, missing ones lost."""
    side = Counted()
    side.logs = [totals(10, 10), totals(15, 15)]
    side.counters = [served, 15]
    integrity = RequestAccounting([cast("VmHost", side)]).compare(cast("VmHost", side))
    assert (integrity.requests, integrity.lost, integrity.duplicated) == (10, lost, duplicated)


def test_requests_of_reading_back_do_not_count_in_the_next_interval() -> None:
    """Whether they are in the log, the counters or both."""
    side = Counted()
    side.logs = [totals(10, 10), totals(14, 14), totals(30, 30), totals(34, 34)]
    side.counters = [10, 99, 115, 120]
    accounting = RequestAccounting([cast("VmHost", side)])
    assert accounting.compare(cast("VmHost", side)).clean
    second = accounting.compare(cast("VmHost", side))
    assert second.clean
    assert second.requests == 16


def test_outstanding_requests_are_lost_and_wrong_blocks_corrupted() -> None:
    """After the load has been stopped."""
    side = Counted()
    side.logs = [RequestLog(requests=10, completed=9, outstanding=1), totals(10, 9)]
    side.counters = [9, 9]
    side.wrong = 3
    integrity = RequestAccounting([cast("VmHost", side)]).compare(cast("VmHost", side))
    assert (integrity.lost, integrity.corrupted) == (1, 3)


def test_failed_requests_on_a_full_file_system_have_a_reason() -> None:
    """The error has their number and the reason."""
    side = Counted()
    side.logs = [totals(10, 10)._replace(errors=7)]
    side.counters = [10]
    side.lacking = "no space left on device in /tmp/x"
    with pytest.raises(EmuError, match="7 requests failed: no space left on device in /tmp/x"):
        RequestAccounting([cast("VmHost", side)]).compare(cast("VmHost", side))


def test_without_counters_the_guests_log_alone_counts() -> None:
    """Other programs serve the disks: only what the guest has not seen completed is lost."""
    side = Counted()
    side.counted = False
    side.logs = [RequestLog(requests=10, completed=9, outstanding=1), totals(10, 9)]
    side.counters = [0, 0]
    integrity = RequestAccounting([cast("VmHost", side)]).compare(cast("VmHost", side))
    assert (integrity.requests, integrity.lost, integrity.duplicated) == (10, 1, 0)
    assert integrity.proofs == {Proof.BLOCKS, Proof.IMAGES}


def test_counters_of_other_requests_do_not_count() -> None:
    """A user has plugged a disk of a back-end that this run has not started, or reset the VM."""
    side = Counted()
    side.counters_match = False
    side.logs = [totals(10, 10), totals(10, 10)]
    side.counters = [3, 3]
    integrity = RequestAccounting([cast("VmHost", side)]).compare(cast("VmHost", side))
    assert integrity.clean
    assert integrity.proofs == {Proof.BLOCKS, Proof.IMAGES}


def test_an_interval_has_what_was_compared_in_it() -> None:
    """The sum of several has what was compared in all."""
    side = Counted()
    side.logs = [totals(10, 10), totals(10, 10), totals(10, 10), totals(10, 10)]
    side.counters = [10, 10, 10, 10]
    accounting = RequestAccounting([cast("VmHost", side)])
    first = accounting.compare(cast("VmHost", side))
    side.all_images = False
    second = accounting.compare(cast("VmHost", side))
    assert first.proofs == set(Proof)
    assert second.proofs == (Integrity() + first + second).proofs == {Proof.BLOCKS, Proof.COUNTERS}
