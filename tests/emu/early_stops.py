"""Back-ends that reply to GET_VRING_BASE with requests in flight.

They offer INFLIGHT_SHMFD, so their requests are not awaited before the rings stop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backends.stops import Stops
from emu.vm import early_stops, vm
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pytest

    from emu.vm.early_stops import Unfinished
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


def take_receive_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """NICs that connect from now on take all available buffers of a receive ring when it stops.

    They return none of them, so the base is ahead of the used index.
    """
    get_base = Stops._get_vring_base

    def take_and_stop(self: Stops, request: Request) -> bool:
        assert isinstance(request.payload, VringState)
        ring = self._device.rings[request.payload.ring]
        if self._device.virtio.backend_type == "net" and not ring.index % 2:
            queue = ring.queue or ring.activate()
            while queue and queue.pop():
                pass
        return get_base(self, request)

    monkeypatch.setattr(Stops, "_get_vring_base", take_and_stop)
    monkeypatch.setattr(Stops, "run_handlers", lambda self: {})


def while_waiting(
    action: Callable[[], object], monkeypatch: pytest.MonkeyPatch, timeout: float | None = None
) -> None:
    """Do this as soon as a VM waits for requests in flight.

    Args:
        action: called in the thread that waits.
        monkeypatch: undoes it.
        timeout: seconds, in place of those that the VM waits.
    """
    wait = early_stops.await_back_ends

    def act_and_wait(unfinished: Callable[[], Sequence[Unfinished]], vm_timeout: float) -> None:
        action()
        wait(unfinished, vm_timeout if timeout is None else timeout)

    for module in (early_stops, vm):
        monkeypatch.setattr(module, "await_back_ends", act_and_wait)
