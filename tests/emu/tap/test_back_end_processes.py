"""The processes that serve the devices, and their replies that need no work."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from emu.tap.back_end_processes import BackEnd, BackEndProcesses
from tests.emu.tap.talk import TICK, Clock, F, Talk
from vhost_user.payloads import U64, VringState


def test_devices_of_one_process_and_of_unknown_ones() -> None:
    found = BackEndProcesses()
    first = Talk([found.take], "a", pids=(1, 7))
    for device, pid in (("b", 7), ("c", 8), ("d", 0), ("e", 0)):
        Talk(device=device, reader=first.reader, pids=(1, pid))
    processes = [each.process for each in found.of("abcde").values()]
    assert processes == [7, 7, 8, "d", "e"]
    first.close()
    assert found.of("a") == {"a": BackEnd("a")}


def test_a_reply_without_work_shows_the_wake_up() -> None:
    """Not one of another kind, and not one that waited behind another request."""
    found, clock = BackEndProcesses(), Clock()
    one = Talk([found.take], "a", clock, pids=(1, 7))
    two = Talk(device="b", clock=clock, reader=one.reader, pids=(1, 7))
    one.ask(F.GET_VRING_BASE, VringState(0, 0))
    one.answer(F.GET_VRING_BASE, VringState(0, 0))
    assert found.of("a")["a"].wake_up is None
    one.ask(F.GET_FEATURES)
    two.ask(F.GET_FEATURES)
    one.answer(F.GET_FEATURES, U64(1))
    two.answer(F.GET_FEATURES, U64(1))
    assert found.of("a")["a"].wake_up is None
    two.ask(F.GET_FEATURES)
    two.answer(F.GET_FEATURES, U64(1))
    assert found.of("a")["a"].wake_up == TICK


def test_a_connection_that_ends_with_a_request_does_not_block() -> None:
    found, clock = BackEndProcesses(), Clock()
    one = Talk([found.take], "a", clock, pids=(1, 7))
    two = Talk(device="b", clock=clock, reader=one.reader, pids=(1, 7))
    one.ask(F.GET_FEATURES)
    one.close()
    two.ask(F.GET_FEATURES)
    two.answer(F.GET_FEATURES, U64(1))
    assert found.of("b")["b"].wake_up == TICK


def test_the_slowest_reply_is_that_of_all_processes() -> None:
    found, clock = BackEndProcesses(), Clock()
    one = Talk([found.take], "a", clock, pids=(1, 7))
    two = Talk(device="b", clock=clock, reader=one.reader, pids=(1, 8))
    one.ask(F.GET_FEATURES)
    one.answer(F.GET_FEATURES, U64(1))
    two.ask(F.GET_QUEUE_NUM)
    clock.now += 9 * TICK
    two.answer(F.GET_QUEUE_NUM, U64(1))
    assert found.of("ab") == {
        "a": BackEnd(7, TICK, 10 * TICK),
        "b": BackEnd(8, 10 * TICK, 10 * TICK),
    }


def test_a_process_that_has_gone_is_forgotten() -> None:
    """Its slow replies say nothing about this host any more."""
    found, clock = BackEndProcesses(), Clock()
    one = Talk([found.take], "a", clock, pids=(1, 7))
    one.ask(F.GET_FEATURES)
    one.answer(F.GET_FEATURES, U64(1))
    for number in range(1, 5):
        gone = Talk(device="b", clock=clock, reader=one.reader, pids=(1, 8), number=number)
        gone.ask(F.GET_FEATURES)
        clock.now += 9 * TICK
        gone.answer(F.GET_FEATURES, U64(1))
        gone.close()
        assert found.of("a") == {"a": BackEnd(7, TICK, TICK)}
