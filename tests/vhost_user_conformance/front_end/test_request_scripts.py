"""Sessions in which the guest makes requests, with a driver that the test plays."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from vhost_user_conformance.front_end.recording import Recording
from vhost_user_conformance.front_end.request_scripts import (
    ENOUGH,
    FOR_A_WHILE,
    ONE_AT_A_TIME,
    ROUNDS,
)
from vhost_user_conformance.front_end.ring import Chain

if TYPE_CHECKING:
    from collections.abc import Callable

    from vhost_user_conformance.front_end.script import ScriptedSession

CHAIN = Chain(0, 0, (), False, ())


class Wire:
    """The connection's time limit."""

    timeout = 0.02


class Driver:
    """A session with a driver that has this many requests, and kicks for all or for none."""

    def __init__(self, requests: int, *, kicks: bool = True) -> None:
        self.wire = Wire()
        self.recording = Recording()
        self.completed = 0
        self.checks = 0
        self._requests = requests
        self._kicks = kicks

    def pump(self, done: Callable[[], bool], timeout: float) -> bool:
        """Each check of the condition is a step of the driver."""
        del timeout
        while not done():
            self.checks += 1
            self.recording.chains.append(CHAIN)
        return True

    def waiting(self) -> dict[int, int]:
        """The next request of ring 0, if it is there without a kick."""
        return {} if self._kicks or self.completed >= self._requests else {0: self.completed}

    def complete_one(self) -> bool:
        """Whether there was one."""
        if self.completed == self._requests:
            return False
        self.completed += 1
        return True


def asked(driver: Driver, script: object) -> Recording:
    """The recording after the script has asked the driver."""
    assert script in (ONE_AT_A_TIME, FOR_A_WHILE)
    asks = (ONE_AT_A_TIME if script is ONE_AT_A_TIME else FOR_A_WHILE).asks
    assert asks is not None
    asks(cast("ScriptedSession", driver))
    return driver.recording


@pytest.mark.parametrize(("requests", "completed"), [(3, 3), (100, ROUNDS)])
def test_requests_are_completed_one_at_a_time(requests: int, completed: int) -> None:
    """Until there is none left, or enough were."""
    driver = Driver(requests)
    assert asked(driver, ONE_AT_A_TIME).unkicked == set()
    assert driver.completed == completed
    assert ONE_AT_A_TIME.holds


def test_a_request_that_is_not_kicked_for_ends_it() -> None:
    """When it has waited for the time of an answer."""
    driver = Driver(100, kicks=False)
    assert asked(driver, ONE_AT_A_TIME).unkicked == {0}
    assert driver.completed == 0


def test_a_driver_that_goes_on_is_watched_until_it_has_made_enough() -> None:
    """Requests are completed at once there."""
    driver = Driver(0)
    assert len(asked(driver, FOR_A_WHILE).chains) == ENOUGH
    assert not FOR_A_WHILE.holds
