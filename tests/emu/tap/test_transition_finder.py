"""Stops and starts are found in the messages, with their rows."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.tap import transition_finder as module
from emu.tap.back_end_processes import BackEnd
from emu.tap.transition_finder import QUIET, SETTLED, TransitionFinder
from emu.tap.transitions import Kind, Phase, Transition
from tests.emu.tap.talk import TICK, Clock, F, Talk
from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.features import ProtocolFeature
from vhost_user.payloads import U64, MemoryRegion, MemTable, VringAddr, VringState

if TYPE_CHECKING:
    from vhost_user.payload_layout import Payload

TABLE = MemTable((MemoryRegion(0, 4096, 0, 0),))


class Vm:
    """Devices whose stops and starts are found."""

    def __init__(self, *devices: str) -> None:
        self.found: list[Transition] = []
        self.finder = TransitionFinder(self.found.append)
        self.clock = Clock()
        first = Talk([self.finder.take], devices[0], self.clock)
        self.reader = first.reader
        self.talks = {devices[0]: first}
        for device in devices[1:]:
            self.talks[device] = Talk(device=device, clock=self.clock, reader=self.reader)

    def connect(self, name: str, device: str, pid: int = 0, number: int = 1) -> None:
        """One more connection of a pair, by the name that it gets in `talks`."""
        self.talks[name] = Talk(
            device=device, clock=self.clock, reader=self.reader, pids=(pid, 0), number=number
        )

    def stop(self, device: str, rings: int = 2) -> None:
        """In lock-step."""
        talk = self.talks[device]
        for ring in range(rings):
            talk.ask(F.GET_VRING_BASE, VringState(ring, 0))
            talk.answer(F.GET_VRING_BASE, VringState(ring, 7))

    def start(self, device: str, rings: int = 2) -> None:
        """Without acknowledgements."""
        talk = self.talks[device]
        talk.ask(F.SET_MEM_TABLE, TABLE, fds=1)
        for ring in range(rings):
            talk.ask(F.SET_VRING_ADDR, VringAddr(ring, 0, 0, 0, 0, 0))
            talk.ask(F.SET_VRING_BASE, VringState(ring, 7))
            talk.ask(F.SET_VRING_KICK, U64(ring), fds=1)

    def set_up_ahead(self, device: str, rings: int = 2) -> None:
        """What does not depend on the contents of guest memory."""
        talk = self.talks[device]
        talk.ask(F.SET_MEM_TABLE, TABLE, fds=1)
        for ring in range(rings):
            talk.ask(F.SET_VRING_ADDR, VringAddr(ring, 0, 0, 0, 0, 0))
            talk.ask(F.SET_VRING_KICK, U64(ring), fds=1)

    def start_rest(self, device: str, rings: int = 2) -> None:
        """What is left then; the addresses again."""
        talk = self.talks[device]
        for ring in range(rings):
            talk.ask(F.SET_VRING_BASE, VringState(ring, 7))
            talk.ask(F.SET_VRING_ADDR, VringAddr(ring, 0, 0, 0, 0, 0))
            talk.ask(F.SET_VRING_ENABLE, VringState(ring, 1))

    def wait(self, nanoseconds: int = QUIET) -> None:
        """Nothing comes for that long."""
        self.clock.now += nanoseconds
        self.finder.finish_quiet(self.clock.now)


def test_a_stop_in_lock_step() -> None:
    vm = Vm("a", "b")
    vm.stop("a")
    vm.stop("b", rings=3)
    assert vm.finder.due == vm.clock.now + SETTLED
    vm.wait(SETTLED - 1)
    assert vm.found == []
    vm.wait(1)
    (stop,) = list(vm.found)
    (row,) = stop.rows
    assert (stop.kind, stop.devices, stop.rings) == (Kind.STOP, ["a", "b"], 5)
    assert (row.phase, row.messages, row.at_once) == (Phase.GET_VRING_BASE, 5, 1)
    assert (row.busy, row.wall) == (5 * TICK, 9 * TICK)
    assert [span.wall for span in row.spans] == [3 * TICK, 5 * TICK]
    assert row.spans[1].rings == {0: TICK, 1: TICK, 2: TICK}


def test_a_start_has_two_rows_and_its_stop() -> None:
    vm = Vm("a")
    vm.stop("a")
    vm.start("a")
    vm.wait()
    stop, start = vm.found
    assert (start.kind, start.before, start.is_migration) == (Kind.START, stop, False)
    assert [(row.phase, row.messages) for row in start.rows] == [
        (Phase.SET_MEM_TABLE, 1),
        (Phase.START_VRINGS, 6),
    ]
    assert start.rings == 2


def test_a_start_of_other_devices_is_a_migration() -> None:
    vm = Vm("src", "dst")
    vm.stop("src")
    vm.start("dst")
    vm.finder.finish()
    assert vm.found[1].is_migration


def test_a_start_long_after_a_stop_is_another_matter() -> None:
    vm = Vm("a")
    vm.stop("a")
    vm.wait(module.RELATED)
    vm.start("a")
    vm.wait()
    assert vm.found[1].before is None


def test_quick_stops_and_starts_are_apart() -> None:
    """Although nothing is quiet between them."""
    vm = Vm("a", "b")
    for _ in range(3):
        for device in vm.talks:
            vm.stop(device)
        for device in vm.talks:
            vm.start(device)
    vm.finder.finish()
    assert [transition.kind for transition in vm.found] == [Kind.STOP, Kind.START] * 3
    assert {transition.rings for transition in vm.found} == {4}


def test_the_dirty_log_does_not_divide_a_stop() -> None:
    """It is switched off by SET_VRING_ADDR, while other rings still stop."""
    vm = Vm("a")
    for _ in range(3):
        vm.stop("a", rings=1)
        vm.talks["a"].ask(F.SET_VRING_ADDR, VringAddr(0, 0, 0, 0, 0, 0))
    vm.finder.finish()
    (stop,) = vm.found
    assert (stop.kind, stop.messages) == (Kind.STOP, 3)


@pytest.mark.parametrize("flags", [VERSION, VERSION | NEED_REPLY])
def test_the_dirty_log_of_rings_that_run_is_no_part_of_their_start(flags: int) -> None:
    """The next migration begins before the start has been seen to be over."""
    vm = Vm("src", "dst")
    vm.talks["dst"].negotiate(ProtocolFeature.REPLY_ACK)
    vm.stop("src")
    vm.start("dst")
    end = vm.clock.now
    for log in (1, 0):
        vm.clock.now += SETTLED // 2
        for ring in range(2):
            vm.talks["dst"].ask(F.SET_VRING_ADDR, VringAddr(ring, log, 0, 0, 0, 0), flags=flags)
            if flags & NEED_REPLY:
                vm.talks["dst"].answer(F.SET_VRING_ADDR, U64(0))
    vm.finder.finish()
    _, start = vm.found
    assert (start.end, start.messages, start.waiting) == (end, 7, 0)


def test_addresses_of_a_ring_that_is_stopped_are_part_of_its_start() -> None:
    """Also if the log was switched while it was stopped."""
    vm = Vm("a")
    vm.start("a")
    vm.stop("a")
    for ring in range(2):
        vm.talks["a"].ask(F.SET_VRING_ADDR, VringAddr(ring, 1, 0, 0, 0, 0))
        vm.talks["a"].ask(F.SET_VRING_BASE, VringState(ring, 7))
        vm.talks["a"].ask(F.SET_VRING_KICK, U64(ring), fds=1)
    vm.finder.finish()
    assert [each.messages for each in vm.found] == [7, 2, 6]


def test_disabled_rings_are_part_of_a_stop() -> None:
    vm = Vm("a")
    talk = vm.talks["a"]
    talk.ask(F.SET_VRING_ENABLE, VringState(0, 0))
    vm.stop("a", rings=1)
    vm.start("a", rings=1)
    talk.ask(F.SET_VRING_ENABLE, VringState(0, 1))
    vm.finder.finish()
    stop, start = vm.found
    assert [row.phase for row in stop.rows] == [Phase.DISABLE_VRINGS, Phase.GET_VRING_BASE]
    assert start.rows[-1].messages == 4


@pytest.mark.parametrize("number", [F.SET_MEM_TABLE, F.SET_VRING_CALL, F.SET_VRING_NUM])
def test_other_messages_are_no_start(number: F) -> None:
    """Also not beside one."""
    vm = Vm("a", "b")
    payloads: dict[F, Payload] = {F.SET_MEM_TABLE: TABLE, F.SET_VRING_CALL: U64(0)}
    payload = payloads.get(number, VringState(0, 1))
    vm.talks["a"].ask(number, payload, fds=1)
    vm.wait()
    assert vm.found == []
    vm.talks["a"].ask(number, payload, fds=1)
    vm.start("b")
    vm.wait()
    assert vm.found[0].devices == ["b"]


def test_a_reply_after_the_end_is_left_out() -> None:
    vm = Vm("a")
    vm.talks["a"].ask(F.GET_VRING_BASE, VringState(0, 0))
    vm.wait()
    vm.talks["a"].answer(F.GET_VRING_BASE, VringState(0, 0))
    vm.finder.finish()
    assert len(vm.found) == 1
    assert vm.found[0].rows[0].busy == 0


def test_one_that_never_ends_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_MESSAGES", 10)
    vm = Vm("a")
    vm.stop("a", rings=35)
    assert [transition.messages for transition in vm.found] == [10, 10, 10]


def kinds(vm: Vm) -> list[tuple[Kind, list[str]]]:
    """What was found, when all is over."""
    vm.finder.finish()
    return [(each.kind, each.devices) for each in vm.found]


def test_a_stop_waits_for_rings_that_run_still() -> None:
    """The front-end works on the notifiers of the first device meanwhile."""
    vm = Vm("a", "b")
    vm.start("a")
    vm.start("b")
    vm.wait()
    vm.stop("a")
    vm.wait(QUIET - SETTLED)
    vm.stop("b")
    assert len(vm.found) == 1
    vm.wait(SETTLED)
    assert vm.found[1].devices == ["a", "b"]


def test_a_stop_ends_although_a_ring_runs() -> None:
    vm = Vm("a", "b")
    vm.start("a")
    vm.start("b")
    vm.wait()
    vm.stop("a")
    vm.wait(SETTLED)
    assert len(vm.found) == 1
    assert vm.finder.due == vm.clock.now - SETTLED + QUIET
    vm.wait(QUIET - SETTLED)
    assert vm.found[1].devices == ["a"]


def test_a_start_waits_for_the_rings_that_were_stopped() -> None:
    vm = Vm("a")
    vm.start("a")
    vm.wait()
    vm.stop("a")
    vm.start("a", rings=1)
    vm.wait(SETTLED)
    assert len(vm.found) == 1
    vm.start("a")
    vm.wait(SETTLED)
    assert [each.kind for each in vm.found] == [Kind.START, Kind.STOP, Kind.START]
    assert vm.found[2].rings == 2


def test_a_start_does_not_wait_for_rings_that_were_only_disabled() -> None:
    """A guest with one vCPU uses one ring of a disk that has two; QEMU enables both."""
    vm = Vm("a")
    talk = vm.talks["a"]
    for ring in range(2):
        talk.ask(F.SET_VRING_ENABLE, VringState(ring, 0))
    vm.stop("a", rings=1)
    vm.start("a", rings=1)
    for ring in range(2):
        talk.ask(F.SET_VRING_ENABLE, VringState(ring, 1))
    vm.wait(SETTLED)
    assert vm.finder.due is None
    stop, start = vm.found
    assert (stop.rings, stop.rings_stopped) == (2, 1)
    assert (start.rings, start.rings_set_up) == (2, 1)
    talk.ask(F.SET_VRING_ADDR, VringAddr(0, 0, 0, 0, 0, 0))  # with the dirty log of a migration
    vm.finder.finish()
    assert len(vm.found) == 2


def test_two_starts_without_a_pause_are_two() -> None:
    """The VM stops between them; the stop is complete, too."""
    vm = Vm("a", "b")
    for device in ("a", "b"):
        vm.start(device)
    for device in ("a", "b"):
        vm.stop(device)
    for device in ("a", "b"):
        vm.start(device)
    both = ["a", "b"]
    assert kinds(vm) == [(Kind.START, both), (Kind.STOP, both), (Kind.START, both)]


def test_devices_that_restart_one_after_the_other_are_one_restart() -> None:
    """As when a kernel takes over from the firmware."""
    vm = Vm("a", "b")
    for device in ("a", "b"):
        vm.stop(device)
        vm.start(device)
    assert kinds(vm) == [(Kind.STOP, ["a", "b"]), (Kind.START, ["a", "b"])]


@pytest.mark.parametrize("pids", [(1, 2), (0, 0)])
def test_migrations_back_and_forth_are_apart(pids: tuple[int, int]) -> None:
    """Without a pause, and also where the front-ends' processes are unknown."""
    vm = Vm("first")
    for name, pid in zip(("src", "dst"), pids, strict=True):
        vm.connect(name, name, pid)
    vm.start("src")
    vm.stop("src")
    vm.start("dst")
    vm.stop("dst")
    vm.connect("src again", "src", pids[0], number=2)
    vm.start("src again")
    assert kinds(vm) == [
        (Kind.START, ["src"]),
        (Kind.STOP, ["src"]),
        (Kind.START, ["dst"]),
        (Kind.STOP, ["dst"]),
        (Kind.START, ["src#2"]),
    ]
    assert [each.is_migration for each in vm.found] == [False, False, True, False, True]


def test_two_vms_at_the_same_time_are_apart() -> None:
    vm = Vm("first")
    for name, pid in (("a", 1), ("b", 2)):
        vm.connect(name, name, pid)
    for device in ("a", "b"):
        vm.start(device)
    assert kinds(vm) == [(Kind.START, ["a"]), (Kind.START, ["b"])]
    assert [each.front_pid for each in vm.found] == [1, 2]


def test_a_pair_that_is_started_again_has_two_starts() -> None:
    """The first connection ended without a stop."""
    vm = Vm("a")
    vm.start("a")
    vm.talks["a"].close()
    vm.connect("again", "a", number=2)
    vm.start("again")
    assert kinds(vm) == [(Kind.START, ["a"]), (Kind.START, ["a#2"])]


@pytest.mark.parametrize("number", [F.RESET_DEVICE, F.RESET_OWNER])
def test_a_reset_divides_two_starts(number: F) -> None:
    vm = Vm("a")
    vm.start("a")
    vm.talks["a"].ask(number)
    vm.start("a")
    assert kinds(vm) == [(Kind.START, ["a"])] * 2


def test_a_late_reply_is_no_part_of_the_next_stop() -> None:
    vm = Vm("a")
    talk = vm.talks["a"]
    talk.ask(F.GET_VRING_BASE, VringState(0, 0))
    vm.wait()
    talk.ask(F.GET_VRING_BASE, VringState(1, 0))
    talk.answer(F.GET_VRING_BASE, VringState(0, 0))
    talk.answer(F.GET_VRING_BASE, VringState(1, 0))
    vm.finder.finish()
    assert [each.rows[0].spans[0].rings for each in vm.found] == [{}, {1: 2 * TICK}]


def test_another_device_of_the_same_front_end_is_no_migration() -> None:
    """As where a program reads one disk after the other."""
    vm = Vm("first")
    for name in ("a", "b"):
        vm.connect(name, name, 7)
    vm.start("a")
    vm.stop("a")
    vm.talks["a"].close()
    vm.start("b")
    vm.finder.finish()
    assert [(each.is_migration, each.before) for each in vm.found] == [(False, None)] * 3


def test_a_stop_knows_its_back_end_although_the_front_end_has_gone() -> None:
    """As QEMU that ends after a migration: the stop is not over yet."""
    vm = Vm("first")
    for device in ("a", "b"):
        vm.talks[device] = Talk(device=device, clock=vm.clock, reader=vm.reader, pids=(3, 7))
        vm.talks[device].ask(F.GET_FEATURES)
        vm.talks[device].answer(F.GET_FEATURES, U64(1))
    for device in ("a", "b"):
        vm.stop(device)
    for device in ("a", "b"):
        vm.talks[device].close()
    vm.wait()
    (stop,) = vm.found
    assert stop.back_ends == dict.fromkeys(("a", "b"), BackEnd(7, TICK, TICK))


@pytest.mark.parametrize("pause", [0, QUIET])
def test_what_is_set_up_ahead_is_apart(pause: int) -> None:
    """However long the VM runs until it stops; the start has the time since the stop."""
    vm = Vm("first")
    for pid, name in enumerate(("src0", "src1", "dst0", "dst1")):
        vm.connect(name, name, 1 + pid // 2)
    for name in ("src0", "src1"):
        vm.start(name)
    vm.wait()
    for name in ("dst0", "dst1"):
        vm.set_up_ahead(name)
    vm.wait(pause)
    for name in ("src0", "src1"):
        vm.stop(name)
    for name in ("dst0", "dst1"):
        vm.start_rest(name)
    vm.wait(SETTLED)
    assert vm.finder.due is None, "the start is complete: nothing more is awaited"
    vm.found.sort(key=lambda each: each.start)
    _, ahead, stop, start = vm.found
    assert (ahead.is_ahead, ahead.before, ahead.is_migration) == (True, None, False)
    assert [(row.phase, row.messages) for row in ahead.rows] == [
        (Phase.SET_MEM_TABLE, 2),
        (Phase.START_VRINGS, 8),
    ]
    assert (start.is_ahead, start.before, start.is_migration) == (False, stop, True)
    assert [(row.phase, row.messages) for row in start.rows] == [(Phase.START_VRINGS, 12)]
    assert (start.rings, start.rings_set_up) == (4, 4)


def test_what_a_device_is_made_with_is_no_part_of_its_start() -> None:
    """QEMU sends SET_VRING_CALL then; the VM comes some time later."""
    vm = Vm("first")
    for name, pid in (("src", 1), ("dst", 2)):
        vm.connect(name, name, pid)
    vm.start("src")
    vm.wait()
    vm.talks["dst"].ask(F.SET_VRING_CALL, U64(0), fds=1)
    vm.wait(SETTLED)
    vm.stop("src")
    vm.start("dst")
    vm.wait()
    _, stop, start = vm.found
    assert start.before is stop
    assert start.start > stop.end
    assert [row.messages for row in start.rows] == [1, 6]


def test_a_restart_with_the_addresses_of_before_is_no_set_up() -> None:
    """A front-end need not send them again; after a reset it has to."""
    vm = Vm("a")
    talk = vm.talks["a"]
    vm.start("a", rings=1)
    vm.stop("a", rings=1)
    talk.ask(F.SET_VRING_BASE, VringState(0, 7))
    talk.ask(F.SET_VRING_KICK, U64(0), fds=1)
    talk.ask(F.RESET_DEVICE)
    talk.ask(F.SET_VRING_BASE, VringState(0, 7))
    talk.ask(F.SET_VRING_KICK, U64(0), fds=1)
    vm.finder.finish()
    assert [(each.kind, each.is_ahead) for each in vm.found] == [
        (Kind.START, False),
        (Kind.STOP, False),
        (Kind.START, False),
        (Kind.START, True),
    ]


def test_rings_that_cannot_be_are_not_remembered() -> None:
    """Their numbers are a peer's."""
    vm = Vm("a")
    vm.talks["a"].ask(F.SET_VRING_BASE, VringState(1 << 20, 7))
    assert vm.finder._given == {}


def test_two_vms_do_not_divide_each_others_starts() -> None:
    """Only a set-up ahead of a start ends when the other side stops."""
    vm = Vm("first")
    for name, pid in (("a", 1), ("b", 2)):
        vm.connect(name, name, pid)
    vm.start("b", rings=1)
    vm.stop("a")
    vm.start("b", rings=1)
    vm.finder.finish()
    assert [(each.kind, each.devices) for each in vm.found] == [
        (Kind.START, ["b"]),
        (Kind.STOP, ["a"]),
    ]
