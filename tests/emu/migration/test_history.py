"""The last known costs: what is kept of a timeline, and what the next migration expects from it."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import json

import pytest

from devices.procedure import Phase
from emu.migration.history import History, NotifierCosts
from emu.strategies.registry import make
from emu.strategies.timeline import Span

MS = 1_000_000


def stops(*devices: str, start: int = 0, apart: int = 20 * MS) -> list[Span]:
    """The stop of each device takes 20 ms; ``apart`` is the time between their starts."""
    return [
        Span(
            name[:3],
            name,
            None,
            Phase.GET_VRING_BASE,
            start + n * apart,
            start + n * apart + 20 * MS,
            4,
            True,
        )
        for n, name in enumerate(devices)
    ]


def test_an_empty_history_expects_no_time() -> None:
    history = History()
    assert history.devices("src", make("split")) == 0
    assert history.vcpus(make("split")) == 0


def test_the_same_strategy_is_expected_to_take_as_long_again() -> None:
    history = History()
    history.record("src", "qemu-2021", stops("blk0", "blk1", "blk2"))
    assert history.devices("src", make("qemu-2021")) == 60 * MS
    assert history.devices("dst", make("qemu-2021")) == 0


@pytest.mark.parametrize(("probed", "expected"), [(10, 60), (150, 60), (200, 200)])
def test_a_probe_takes_precedence_only_if_it_is_much_longer(probed: int, expected: int) -> None:
    history = History()
    history.record("src", "qemu-2021", stops("blk0", "blk1", "blk2"))
    assert history.devices("src", make("qemu-2021"), probed * MS) == expected * MS


def test_notifiers_count_where_the_same_strategy_is_not_known() -> None:
    history = History()
    history.record("src", "qemu-2021", stops("blk0", "blk1", "blk2"))
    assert history.devices("src", make("qemu-2021"), 10 * MS, 900 * MS) == 60 * MS
    assert history.devices("src", make("qemu-2021"), 200 * MS, 900 * MS) == 1100 * MS
    assert history.devices("src", make("split"), 10 * MS, 900 * MS) == 910 * MS


def test_the_longer_of_another_strategys_times_and_the_probe_counts() -> None:
    history = History()
    history.record("src", "qemu-2021", stops("blk0", "blk1"))
    assert history.devices("src", make("split"), 7 * MS) == 20 * MS
    assert history.devices("src", make("split"), 70 * MS) == 70 * MS


@pytest.mark.parametrize(
    ("known", "apart", "asked", "expected"),
    [("prewired", 0, "qemu-2021", 60 * MS), ("qemu-2021", 20 * MS, "prewired", 20 * MS)],
)
def test_times_under_another_strategy_are_combined_as_this_strategy_works(
    known: str, apart: int, asked: str, expected: int
) -> None:
    history = History()
    history.record("src", known, stops("blk0", "blk1", "blk2", apart=apart))
    assert history.devices("src", make(asked)) == expected


def test_a_phase_that_a_strategy_moves_out_of_the_blackout_is_not_expected_in_it() -> None:
    notify = Span("blk", "blk0", 0, Phase.DISABLE_HOST_NOTIFY, 20 * MS, 90 * MS, 1, True)
    history = History()
    history.record("src", "qemu-2021", [*stops("blk0"), notify])
    assert history.devices("src", make("split")) == 90 * MS
    prewired = make("prewired")
    assert history.devices("src", prewired) == 20 * MS
    assert history.devices("src", prewired, 50 * MS) == 20 * MS
    assert history.devices("src", prewired, 70 * MS) == 70 * MS


def test_spans_outside_of_the_blackout_and_memory_do_not_count() -> None:
    history = History()
    ram = Span("vm", "", None, Phase.FINAL_RAM, 0, 50 * MS, 1, True)
    state = Span("vm", "", None, Phase.DEVICE_STATE, 0, 3 * MS, 1, True)
    outside = [span._replace(in_blackout=False) for span in stops("blk1")]
    history.record("src", "split", [*stops("blk0"), *outside, ram, state])
    assert history.devices("src", make("split")) == 20 * MS
    assert history.vcpus(make("split")) == 3 * MS


def test_vcpu_times_of_the_same_strategy_take_precedence_over_measured_ones() -> None:
    history = History()
    for number, (strategy, ms) in enumerate((("qemu-2021", 30), ("prewired", 9)), 1):
        load = Span("vm", "", None, Phase.LOAD_STATE, 0, ms * MS, number, True)
        history.record("dst", strategy, [load])
    assert history.vcpus(make("qemu-2021"), 12 * MS) == 30 * MS
    assert history.vcpus(make("prewired"), 12 * MS) == 9 * MS
    assert history.vcpus(make("split"), 12 * MS) == 12 * MS
    assert history.vcpus(make("split")) == 9 * MS


def test_a_strategy_that_prepares_ahead_loads_the_state_into_warm_memory() -> None:
    history = History()
    save = Span("vm", "", None, Phase.DEVICE_STATE, 0, 4 * MS, 1, True)
    load = Span("vm", "", None, Phase.LOAD_STATE, 0, 20 * MS, 1, True)
    history.record("src", "threads", [save])
    history.record("dst", "threads", [load])
    assert history.vcpus(make("threads")) == 24 * MS
    assert history.vcpus(make("split")) == 24 * MS
    assert history.vcpus(make("prewired")) == 8 * MS


def test_notifier_costs_of_the_other_side_count_until_they_are_measured_here() -> None:
    ours, theirs = History(), History()
    ours.notifiers = NotifierCosts(1, 2, 3, 4)
    theirs.merge(json.loads(json.dumps(ours.to_json())))
    assert theirs.notifiers == ours.notifiers
    theirs.notifiers = NotifierCosts(5, 6, 7, 8)
    theirs.merge(ours.to_json())
    assert theirs.notifiers == NotifierCosts(5, 6, 7, 8)


def test_the_later_migration_of_both_histories_counts() -> None:
    ours, theirs = History(), History()
    ours.record("src", "split", stops("blk0"))
    theirs.merge(json.loads(json.dumps(ours.to_json())))
    theirs.record("src", "split", stops("blk0", "blk1"))
    before = json.dumps(theirs.to_json())
    theirs.merge(ours.to_json())
    assert json.dumps(theirs.to_json()) == before
    ours.merge(json.loads(before))
    assert ours.devices("src", make("split")) == 40 * MS


@pytest.mark.parametrize(
    "received",
    [
        [],
        {"src": 1},
        {"src": {"split": [1]}},
        {"src": {"split": [1, 2, 3, 4]}},
        {"src": {"split": ["x", {}, 3, 4]}},
    ],
)
def test_an_invalid_history_is_an_error(received: object) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        History().merge(received)  # type: ignore[arg-type]
