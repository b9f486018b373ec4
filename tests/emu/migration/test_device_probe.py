"""The probe times devices of a running VM without changing its state."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from emu.errors import MigrationError
from emu.migration.device_probe import DeviceProbe, DowntimeForecast, calibrate, prepared_payload
from emu.migration.history import History, IdleCosts, NotifierCosts
from emu.strategies.base import DeviceCost
from emu.strategies.registry import STRATEGIES, StrategyOptions, make
from tests.emu.migration.hosts import SPEC, Host, await_requests, check_request_log
from tests.timeouts import TIMEOUT
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from emu.vm.vm import Vm

MS = 1_000_000
SLOW = 0.02


def test_a_probe_changes_no_state(vm: Vm, hosts: tuple[Host, Host]) -> None:
    rings = [(ring.started, ring.base) for device in vm.devices for ring in device.rings]
    commits = vm.machine.commits
    for _ in range(5):
        DeviceProbe(vm.devices, vm.machine, TIMEOUT)
        await_requests(vm)
    assert rings == [(ring.started, ring.base) for d in vm.devices for ring in d.rings]
    assert commits == vm.machine.commits
    assert all(hosts[0].active(device.name) for device in vm.devices)
    check_request_log(vm)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_an_estimate(vm: Vm, name: str) -> None:
    probe = DeviceProbe(vm.devices, vm.machine, TIMEOUT)
    strategy = make(name, StrategyOptions(threads=3))
    round_trips, share = probe.idle

    def costs(asked: int, posted: int) -> list[DeviceCost]:
        """Four rings in each device, and their messages."""
        assert {len(device.rings) for device in vm.devices} == {4, 2}
        return [
            DeviceCost(
                asked=asked or len(device.rings),
                posted=posted * len(device.rings) - (1 if posted == 3 else 0),
                round_trip=round_trips[device.name],
                share=share,
            )
            for device in vm.devices
        ]

    # GET_VRING_BASE; then the ends of two batches, or of one: all but the last are posted.
    assert probe.stop(strategy) == strategy.estimate(costs(0, 0))
    ahead = strategy.prepares_ahead
    assert probe.start(strategy) == strategy.estimate(costs(1, 3) if ahead else costs(2, 6))
    assert (probe.stop(strategy) == 0) is strategy.hands_over


def test_a_slow_control_plane_is_seen_before_the_blackout(vm: Vm, hosts: tuple[Host, Host]) -> None:
    """In sequence its delay counts for each message, in parallel only once."""
    loop = hosts[0].loops["blk1"]
    done = threading.Event()

    def busy() -> None:
        if not done.wait(SLOW):
            loop.again(busy)

    loop.post(busy)
    try:
        probe = DeviceProbe(vm.devices, vm.machine, TIMEOUT)
    finally:
        done.set()
    serial, parallel = probe.stop(make("qemu-2021")), probe.stop(make("split"))
    assert serial > SLOW / 2 * 1e9
    assert parallel > SLOW / 4 * 1e9


@pytest.fixture
def booted(hosts: tuple[Host, Host], owned: ExitStack) -> tuple[Vm, History]:
    """A VM that was calibrated before it ran."""
    made, history = hosts[0].vm(), History()
    owned.callback(made.close)
    made.boot(lambda: calibrate(made, history, TIMEOUT))
    made.guest.start_load("heavy")
    await_requests(made)
    return made, history


def test_a_calibration_measures_all_costs_and_changes_no_state(booted: tuple[Vm, History]) -> None:
    vm, history = booted
    assert history.idle is not None
    assert history.idle.round_trips.keys() == {device.name for device in vm.devices}
    assert min(history.idle.round_trips.values()) > 0
    assert history.idle.share > 0
    assert history.idle.state > 0
    assert history.notifiers is not None
    assert history.notifiers.assign > 0
    assert history.notifiers.deassign > 0
    assert len(vm.machine.address_space) == SPEC.rings
    check_request_log(vm)


def probe_of(round_trips: dict[str, int], share: int) -> DeviceProbe:
    """A probe with these figures."""
    made = DeviceProbe.__new__(DeviceProbe)
    made._round_trips, made._share = dict(round_trips), share
    return made


@pytest.mark.parametrize("contention", [1, 3, 20])
@pytest.mark.parametrize("slow", [1, 2, 50])
def test_the_slowdown_by_a_running_guest_is_removed(contention: int, slow: int) -> None:
    """The figure of a device that has become much slower than the others is kept."""
    idle = IdleCosts({f"blk{n}": 40_000 + n for n in range(5)}, 9_000, 1)
    live = {name: ns * contention for name, ns in idle.round_trips.items()}
    live["blk4"] *= slow
    probe = probe_of(live, 9_000 * contention)
    probe.compare(idle)
    round_trips, share = probe.idle
    assert share == 9_000
    for name in ("blk0", "blk1", "blk2", "blk3"):
        assert round_trips[name] == idle.round_trips[name]
    if slow < 3:
        assert round_trips["blk4"] == idle.round_trips["blk4"]
    else:
        assert round_trips["blk4"] >= slow * 40_000


def test_a_round_trip_too_long_for_contention_is_kept() -> None:
    """Even that of the only device."""
    probe = probe_of({"blk0": 200 * MS}, 5)
    probe.compare(IdleCosts({"blk0": 40_000}, 9, 1))
    assert probe.idle == ({"blk0": 200 * MS}, 5)


def test_without_a_calibration_the_probe_counts() -> None:
    probe = probe_of({"blk0": 70_000}, 5)
    probe.compare(None)
    assert probe.idle == ({"blk0": 70_000}, 5)


@pytest.mark.parametrize(
    ("name", "stop", "start"),
    [
        ("qemu-2021", 8 * 3 + 4 * 40, 8 * 1 + 4 * 20),
        ("qemu-now", 8 * 3 + 2 * 40, 8 * 1 + 2 * 20),
        ("split", 8 * 3 + 40, 8 * 1 + 20),
        ("prewired", 0, 0),
    ],
)
def test_notifiers_count_by_ring_and_by_the_strategys_commits(
    booted: tuple[Vm, History], name: str, stop: int, start: int
) -> None:
    """If they change in the blackout; a commit finds half of all notifiers on average."""
    vm, _ = booted
    probe = DeviceProbe(vm.devices, vm.machine, TIMEOUT)
    strategy = make(name)
    assert probe.notifiers(strategy, NotifierCosts(1, 20, 3, 40)) == (stop, start)
    assert probe.notifiers(strategy, None) == (0, 0)


def test_a_probe_finds_a_back_end_that_has_disconnected(vm: Vm, hosts: tuple[Host, Host]) -> None:
    hosts[0].kill("blk1")
    with pytest.raises(VhostUserError) as caught:
        DeviceProbe(vm.devices, vm.machine, TIMEOUT)
    assert caught.value.device == "blk1"


def test_a_sequential_strategy_expects_the_sum_of_the_devices() -> None:
    costs = [DeviceCost(asked=4, round_trip=2, share=1, besides=20)] * 24
    assert make("qemu-2021").estimate(costs) == 24 * 28
    assert make("threads", StrategyOptions(threads=8)).estimate(costs) == 3 * 28
    assert make("split").estimate(costs) == 22 + 24 * 4
    assert make("split").estimate([DeviceCost(asked=1, posted=8, share=4)]) == 12
    assert make("split").estimate([]) == 0


def test_the_forecast_uses_the_destinations_figures(vm: Vm, other: Vm) -> None:
    """Its probe and its history."""
    strategy = make("qemu-2021")
    theirs = History()
    # Longer than any device can take to answer the probe.
    long = round(1000 * TIMEOUT * 1e9)
    theirs.merge({"dst": {"qemu-2021": [3, {}, long, {"dst.load_state": 5 * MS}]}})
    payload = prepared_payload(other, strategy, theirs, TIMEOUT)
    mine = History()
    forecast = DowntimeForecast(vm, strategy, mine, TIMEOUT)
    before = forecast.expected()
    forecast.use_destination(payload)
    after = forecast.expected()
    assert before.start < long
    assert after.start == long
    assert after.stop == before.stop
    assert after.vcpus == 5 * MS
    assert mine.devices("dst", strategy) == long


def test_an_empty_payload_of_prepared_is_valid_and_an_invalid_one_an_error(vm: Vm) -> None:
    forecast = DowntimeForecast(vm, make("split"), History(), TIMEOUT)
    before = forecast.expected()
    forecast.use_destination(b"")
    assert forecast.expected() == before
    for payload in (b"\xff", b"[]", b"{}", b'{"start_ns": 1, "history": {"src": 7}}'):
        with pytest.raises(MigrationError, match="PREPARED is invalid"):
            forecast.use_destination(payload)
