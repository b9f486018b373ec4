"""The last known costs: what is kept of a timeline, and what the next migration expects of it."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

import json

import pytest

from devices.procedure import Phase
from emu.migration.history import History, NotifierCosts
from emu.strategies.registry import make
from emu.strategies.timeline import Span

MS = 1_000_000


def stops(*devices: str, start: int = 0, apart: int = 20 * MS) -> list[Span]:
    """Each takes 20 ms; ``apart`` says how long after each other they begin."""
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


def test_nothing_is_expected_where_nothing_is_known() -> None:
    history = History()
    assert history.devices("src", make("split")) == 0
    assert history.vcpus(make("split")) == 0


def test_the_same_strategy_is_expected_to_take_as_long_again() -> None:
    history = History()
    history.note("src", "qemu-2021", stops("blk0", "blk1", "blk2"))
    assert history.devices("src", make("qemu-2021")) == 60 * MS
    assert history.devices("dst", make("qemu-2021")) == 0


@pytest.mark.parametrize(("probed", "expected"), [(10, 60), (150, 60), (200, 200)])
def test_a_rehearsal_is_believed_only_when_it_is_much_longer(probed: int, expected: int) -> None:
    history = History()
    history.note("src", "qemu-2021", stops("blk0", "blk1", "blk2"))
    assert history.devices("src", make("qemu-2021"), probed * MS) == expected * MS


def test_notifiers_count_where_the_same_strategy_is_not_known() -> None:
    history = History()
    history.note("src", "qemu-2021", stops("blk0", "blk1", "blk2"))
    assert history.devices("src", make("qemu-2021"), 10 * MS, 900 * MS) == 60 * MS
    assert history.devices("src", make("qemu-2021"), 200 * MS, 900 * MS) == 1100 * MS
    assert history.devices("src", make("split"), 10 * MS, 900 * MS) == 910 * MS


def test_of_another_strategys_past_and_the_rehearsal_the_longer_counts() -> None:
    history = History()
    history.note("src", "qemu-2021", stops("blk0", "blk1"))
    assert history.devices("src", make("split"), 7 * MS) == 20 * MS
    assert history.devices("src", make("split"), 70 * MS) == 70 * MS


@pytest.mark.parametrize(
    ("known", "apart", "asked", "expected"),
    [("prewired", 0, "qemu-2021", 60 * MS), ("qemu-2021", 20 * MS, "prewired", 20 * MS)],
)
def test_another_strategy_has_the_same_devices_in_its_own_way(
    known: str, apart: int, asked: str, expected: int
) -> None:
    history = History()
    history.note("src", known, stops("blk0", "blk1", "blk2", apart=apart))
    assert history.devices("src", make(asked)) == expected


def test_what_a_strategy_moves_out_of_the_blackout_is_not_expected_in_it() -> None:
    notify = Span("blk", "blk0", 0, Phase.DISABLE_HOST_NOTIFY, 20 * MS, 90 * MS, 1, True)
    history = History()
    history.note("src", "qemu-2021", [*stops("blk0"), notify])
    assert history.devices("src", make("split")) == 90 * MS
    assert history.devices("src", make("prewired")) == 20 * MS


def test_what_was_outside_of_the_blackout_does_not_count_nor_does_memory() -> None:
    history = History()
    ram = Span("vm", "", None, Phase.FINAL_RAM, 0, 50 * MS, 1, True)
    state = Span("vm", "", None, Phase.DEVICE_STATE, 0, 3 * MS, 1, True)
    outside = [span._replace(in_blackout=False) for span in stops("blk1")]
    history.note("src", "split", [*stops("blk0"), *outside, ram, state])
    assert history.devices("src", make("split")) == 20 * MS
    assert history.vcpus(make("split")) == 3 * MS


def test_vcpus_are_expected_as_under_the_same_strategy_or_as_measured() -> None:
    history = History()
    for number, (strategy, ms) in enumerate((("qemu-2021", 30), ("prewired", 9)), 1):
        load = Span("vm", "", None, Phase.LOAD_STATE, 0, ms * MS, number, True)
        history.note("dst", strategy, [load])
    assert history.vcpus(make("qemu-2021"), 12 * MS) == 30 * MS
    assert history.vcpus(make("prewired"), 12 * MS) == 9 * MS
    assert history.vcpus(make("split"), 12 * MS) == 12 * MS
    assert history.vcpus(make("split")) == 9 * MS


def test_notifiers_are_known_from_the_other_side_until_they_are_measured_here() -> None:
    ours, theirs = History(), History()
    ours.notifiers = NotifierCosts(1, 2, 3, 4)
    theirs.learn(json.loads(json.dumps(ours.to_json())))
    assert theirs.notifiers == ours.notifiers
    theirs.notifiers = NotifierCosts(5, 6, 7, 8)
    theirs.learn(ours.to_json())
    assert theirs.notifiers == NotifierCosts(5, 6, 7, 8)


def test_the_other_side_is_believed_where_it_knows_the_later() -> None:
    ours, theirs = History(), History()
    ours.note("src", "split", stops("blk0"))
    theirs.learn(json.loads(json.dumps(ours.to_json())))
    theirs.note("src", "split", stops("blk0", "blk1"))
    before = json.dumps(theirs.to_json())
    theirs.learn(ours.to_json())
    assert json.dumps(theirs.to_json()) == before
    ours.learn(json.loads(before))
    assert ours.devices("src", make("split")) == 40 * MS


@pytest.mark.parametrize(
    "said",
    [
        [],
        {"src": 1},
        {"src": {"split": [1]}},
        {"src": {"split": [1, 2, 3, 4]}},
        {"src": {"split": ["x", {}, 3, 4]}},
    ],
)
def test_nonsense_is_refused(said: object) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        History().learn(said)  # type: ignore[arg-type]
