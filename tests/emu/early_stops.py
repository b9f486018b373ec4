"""Back-ends that reply to GET_VRING_BASE with requests in flight.

They offer INFLIGHT_SHMFD, so their requests are not awaited before the rings stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.stops import Stops
from emu.vm.early_stops import StoppedRings, _StoppedRing
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    import threading

    import pytest

    from vhost_user.messages import Request


def reply_early(monkeypatch: pytest.MonkeyPatch, *, suspends: bool) -> None:
    """This project's back-ends reply to GET_VRING_BASE at once from now on.

    Args:
        monkeypatch: undoes it.
        suspends: the requests in flight are not completed later, but resubmitted by the inflight
            region when the ring is started again.
    """

    def reply(self: Stops, request: Request) -> bool:
        assert isinstance(request.payload, VringState)
        ring = self._device.rings[request.payload.ring]
        ring.begin_stop()
        base = ring.queue.last_avail if ring.queue and ring.in_flight else ring.stop()
        if suspends:
            ring._deactivate()
        self._connection.reply(request, VringState(ring.index, base))
        return True

    def end(self: Stops) -> None:
        for ring in self._device.rings:
            if not ring.stopping or ring.in_flight:
                continue
            if ring._kick_fd < 0:
                ring.stop()
            else:  # the front-end has set it up again
                ring.stopping = False
                ring.schedule()

    monkeypatch.setattr(Stops, "_get_vring_base", reply)
    monkeypatch.setattr(Stops, "ring_idle", end)


def released_by_waiting(release: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """The requests that `Host.hold_requests` holds complete when they are waited for."""
    wait = StoppedRings._wait

    def release_and_wait(early: list[_StoppedRing], timeout: float) -> None:
        release.set()
        wait(early, timeout)

    monkeypatch.setattr(StoppedRings, "_wait", staticmethod(release_and_wait))
