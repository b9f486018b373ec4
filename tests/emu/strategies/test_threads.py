"""The pool of threads."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from emu.strategies.base import DeviceCost, StrategyOptions
from emu.strategies.threads import Threads
from tests.emu.strategies.test_contract import stage_of, stops

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.notifiers import Edit
    from emu.vm.vm import Vm


def pool() -> list[threading.Thread]:
    """The threads of all pools in this process."""
    return [t for t in threading.enumerate() if t.name.startswith("migration-worker")]


@pytest.mark.parametrize("workers", [1, 3])
def test_open_starts_all_threads_and_close_ends_them(workers: int) -> None:
    strategy = Threads.from_options(StrategyOptions(threads=workers))
    assert not pool()
    strategy.open()
    assert len(pool()) == workers
    strategy.close()
    strategy.close()
    assert not pool()


def test_a_pool_must_be_open(vm: Vm) -> None:
    """`drive` does not start it: that would take place in the blackout."""
    vm.reconnect.pause()
    with pytest.raises(RuntimeError, match="open"):
        Threads().drive(stops(vm), stage_of(vm))


def test_the_coordinator_commits_and_the_workers_exchange_messages(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm.reconnect.pause()
    vm.pause_vcpus()
    committers, senders = set(), set()
    apply = vm.machine.apply

    def watched(edits: Sequence[Edit]) -> None:
        committers.add(threading.current_thread())
        apply(edits)

    monkeypatch.setattr(vm.machine, "apply", watched)
    for device in vm.devices:
        exchange = device.connection.exchange

        def sent(message: object, timeout: float, *, exchange: object = exchange) -> object:
            senders.add(threading.current_thread())
            return exchange(message, timeout)  # type: ignore[operator]

        monkeypatch.setattr(device.connection, "exchange", sent)
    strategy = Threads(2)
    strategy.open()
    workers = set(pool())
    try:
        strategy.drive(stops(vm), stage_of(vm))
    finally:
        strategy.close()
    assert committers == {threading.current_thread()}
    assert senders <= workers
    assert senders


@pytest.mark.parametrize(
    ("round_trips", "workers", "expected"),
    [([], 2, 0), ([10, 10], 2, 10), ([10, 10, 10, 10], 2, 20), ([100, 1], 2, 100)],
)
def test_the_estimate_is_shared_work_or_the_slowest_device(
    round_trips: list[int], workers: int, expected: int
) -> None:
    costs = [DeviceCost(asked=1, round_trip=ns) for ns in round_trips]
    assert Threads(workers).estimate(costs) == expected
