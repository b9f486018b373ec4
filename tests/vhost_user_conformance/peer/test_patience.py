"""The time limit for an answer follows the peer and the machine."""

from __future__ import annotations

import os
import time

import pytest

from vhost_user_conformance.peer import patience
from vhost_user_conformance.peer.patience import FACTOR, MOST, Limit, Patience, starved


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ((), 2.0),
        ((0.001, 0.002), 2.0),
        ((0.001, 0.2, 0.001), 0.2 * FACTOR),
        ((30.0,), 2.0 * MOST),
        # A slow answer that lies far back does not count any more.
        ((30.0, *[0.001] * 40), 2.0),
    ],
)
def test_it_follows_the_slowest_recent_answer(answers: tuple[float, ...], wanted: float) -> None:
    """Never below the least limit, and with an upper bound."""
    limit = Patience(2.0)
    for each in answers:
        limit.answered(each)
    assert limit.seconds == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("waited", "over"),
    [((0.0, 0.0), True), ((0.0, 0.005), True), ((7.0, 7.5), False)],
    ids=["it sleeps", "hardly", "it waits for a processor"],
)
def test_time_without_a_processor_does_not_count(
    waited: tuple[float, float], over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that the machine does not let run is not silent."""
    readings = iter(waited)
    monkeypatch.setattr(patience, "starved", lambda _pid: next(readings))
    limit = Limit(0.0 if over else 0.2, pid=1)
    monkeypatch.setattr(time, "monotonic", lambda: limit._begin + 0.21)
    assert limit.over is over
    if not over:
        assert limit.left == pytest.approx(0.2 + 0.5 - 0.21)


def test_a_wait_goes_on_while_the_peer_waits_for_a_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a quarter of the limit each time, and up to the upper bound."""
    monkeypatch.setattr(patience, "waits_for_disk", lambda _pid: True)
    monkeypatch.setattr(patience, "starved", lambda _pid: 0.0)
    limit = Limit(1.0, pid=1)
    now = 0.9
    monkeypatch.setattr(time, "monotonic", lambda: limit._begin + now)
    while not limit.over:
        now += 0.2
    assert now == pytest.approx(MOST, abs=0.2)


def test_a_wait_has_an_upper_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the peer waits for a processor."""
    readings = iter((0.0, 1e6, 2e6))
    monkeypatch.setattr(patience, "starved", lambda _pid: next(readings))
    limit = Limit(1.0, pid=1)
    monkeypatch.setattr(time, "monotonic", lambda: limit._begin + MOST + 0.1)
    assert limit.over


def test_the_kernel_knows_the_waits_of_a_process() -> None:
    """A process that does not exist waits for nothing."""
    assert starved(os.getpid()) >= 0.0
    assert starved(2**30) == 0.0
