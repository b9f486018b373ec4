"""The resource that a device acquires for its active rings."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from backends import active_rings
from backends.active_rings import ActiveRings
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from backends.loop import Loop


class Resource:
    """A lock that another process may hold."""

    name = "disk"

    def __init__(self) -> None:
        self.taken: str | None = None
        self.calls: list[str] = []

    def acquire(self) -> str | None:
        self.calls.append("acquire")
        return self.taken

    def release(self) -> None:
        self.calls.append("release")


class Waiting:
    """A ring that becomes active when it is polled and the resource is available."""

    def __init__(self, index: int, rings: ActiveRings) -> None:
        self.index = index
        self.active = False
        self.errors = 0
        self.done = threading.Event()
        self._rings = rings

    def poll(self) -> None:
        self.active = self._rings.enter(self)
        if self.active:
            self.done.set()

    def signal_error(self) -> None:
        self.errors += 1


@pytest.fixture
def resource() -> Resource:
    return Resource()


@pytest.fixture
def rings(resource: Resource, loop: Loop) -> ActiveRings:
    return ActiveRings(resource, loop)


def run(loop: Loop, *functions: object) -> None:
    """In the loop's thread, in one turn."""
    done = threading.Event()

    def call() -> None:
        for function in functions:
            assert callable(function)
            function()
        done.set()

    loop.post(call)
    assert done.wait(TIMEOUT)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_is_held_from_the_first_ring_to_the_last(
    rings: ActiveRings, resource: Resource, count: int
) -> None:
    for _ in range(2):
        resource.calls.clear()
        assert all(rings.enter(Waiting(n, rings)) for n in range(count))
        for _ in range(count - 1):
            rings.leave()
        assert resource.calls == ["acquire"]
        rings.leave()
        assert resource.calls == ["acquire", "release"]


def test_rings_wait_for_a_resource_that_is_taken(
    rings: ActiveRings, resource: Resource, loop: Loop, caplog: pytest.LogCaptureFixture
) -> None:
    """Each signals its error descriptor, one line reports it, and no kick is needed."""
    resource.taken = "taken"
    waiting = [Waiting(n, rings) for n in range(3)]
    run(loop, *(ring.poll for ring in waiting), *(ring.poll for ring in waiting))
    assert [ring.errors for ring in waiting] == [1, 1, 1]
    assert [record.message for record in caplog.records] == ["disk: ring 0 is not started: taken"]
    resource.taken = None
    for ring in waiting:
        assert ring.done.wait(TIMEOUT)


def test_a_ring_that_was_stopped_is_not_tried_again(
    rings: ActiveRings, resource: Resource, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(active_rings, "RETRY_NS", 1_000_000)
    resource.taken = "taken"
    stopped, waiting = Waiting(0, rings), Waiting(1, rings)
    run(loop, stopped.poll, waiting.poll, lambda: rings.forget(stopped))
    resource.taken = None
    assert waiting.done.wait(TIMEOUT)
    run(loop, lambda: None)
    assert not stopped.active
