"""Transactions: a commit for each notifier against one for all, in time and in list work.

Each commit renders the list of all ioeventfds and compares it with the one in force. So N commits
do work in proportion to N^2, and one does N: `list_work` counts it, whatever the clock says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backends.pacing import Pacer
from devices.notifiers import ANY_VALUE, GuestNotifier, HostNotifier, Ioeventfd, Irqfd
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.machine.machine import Machine
from vhost_user.eventfd import PythonEventfds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bench.figures import Figure
    from devices.notifiers import Edit

#: NICs with 32 rings each; 19 of them have as many rings as the RFC's VM.
RINGS = 32
NICS = (5, 10, 19, 38)
ROUNDS = 5
_ways = pytest.mark.parametrize("way", ["each", "all"])
_sizes = pytest.mark.parametrize(
    "nics",
    [
        pytest.param(nics, id=str(nics * RINGS), marks=[pytest.mark.smoke] * (nics == NICS[0]))
        for nics in NICS
    ],
)


class Notifiers:
    """A machine with no guest in it, and the notifiers of its devices."""

    def __init__(self, nics: int, fds: Sequence[int]) -> None:
        self.spec = VmSpec(1, 64 << 20, (DeviceGroup("net", nics, RINGS),))
        self.machine = Machine(self.spec, pacer=Pacer())
        self.fds = fds

    def host(self, *, assign: bool) -> list[HostNotifier]:
        """The edits of all ioeventfds."""
        address = self.machine.notify_address
        return [
            HostNotifier(
                assign,
                f"net{n // RINGS}",
                "net",
                n % RINGS,
                Ioeventfd(address(*where), 4, ANY_VALUE, fd),
            )
            for n, (where, fd) in enumerate(self._rings())
        ]

    def guest(self, *, assign: bool) -> list[GuestNotifier]:
        """The edits of all irqfds."""
        vector = self.machine.vector
        return [
            GuestNotifier(assign, f"net{n // RINGS}", "net", n % RINGS, Irqfd(vector(*where), fd))
            for n, (where, fd) in enumerate(self._rings())
        ]

    def _rings(self) -> Iterator[tuple[tuple[int, int], int]]:
        return ((divmod(n, RINGS), fd) for n, fd in enumerate(self.fds))

    def apply(self, edits: Sequence[Edit], way: str) -> None:
        """Commit these edits, each by itself or all together."""
        if way == "all":
            self.machine.apply(edits)
        else:
            for edit in edits:
                self.machine.apply([edit])


@pytest.fixture
def notifiers(nics: int) -> Iterator[Notifiers]:
    """A machine with that many NICs, and an eventfd for each of their rings."""
    batch = PythonEventfds()
    fds = batch.create(nics * RINGS)
    notifiers = Notifiers(nics, fds)
    yield notifiers
    notifiers.machine.close()
    batch.close(fds)


@_sizes
@_ways
def test_host(benchmark: Any, figure: Figure, notifiers: Notifiers, way: str) -> None:
    """Assign all ioeventfds, then deassign them."""
    space = notifiers.machine.address_space
    come, go = notifiers.host(assign=True), notifiers.host(assign=False)
    commits, work = space.commits, space.list_work

    def run() -> None:
        notifiers.apply(come, way)
        notifiers.apply(go, way)

    figure.unit, figure.units = "edit", len(come) + len(go)
    benchmark.pedantic(run, rounds=ROUNDS)
    rounds = ROUNDS if benchmark.enabled else 1
    commits, work = (space.commits - commits) // rounds, (space.list_work - work) // rounds
    figure.info.update(notifiers=len(come), commits=commits, list_work=work)
    figure.notes.update({"commits": str(commits), "list work": str(work)})
    figure.notes["per commit"] = str(work // commits)
    n = len(come)
    assert (commits, work) == ((2 * n, 2 * n * n) if way == "each" else (2, 2 * n))


@_sizes
@_ways
def test_guest(benchmark: Any, figure: Figure, notifiers: Notifiers, way: str) -> None:
    """Assign all irqfds, each commit with the whole routing table, then deassign them."""
    machine = notifiers.machine
    come, go = notifiers.guest(assign=True), notifiers.guest(assign=False)
    commits = machine.route_commits

    def run() -> None:
        notifiers.apply(come, way)
        notifiers.apply(go, way)

    figure.unit, figure.units = "edit", len(come) + len(go)
    benchmark.pedantic(run, rounds=ROUNDS)
    commits = (machine.route_commits - commits) // (ROUNDS if benchmark.enabled else 1)
    figure.info.update(notifiers=len(come), route_commits=commits)
    figure.notes["commits"] = str(commits)
