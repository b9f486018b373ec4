"""One front-end's connection to a device: what each message does.

Messages are handled as they come, and answered in that order. A stop that has to wait (for
requests in flight, or because the stop policy says so) holds back its own answer and whatever
comes after it, except further stops, which so wait together.
"""

from __future__ import annotations

import logging
import select
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple, cast

from backends import stats
from backends.pacing import Costs
from backends.stop_policy import DRAIN_LIMIT_NS, StopKind, StopPolicy
from vhost_user.backend import BackendConnection
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import Disconnected, FrontendError
from vhost_user.messages import FrontendRequest, Request, wire_name
from vhost_user.payloads import (
    U64,
    VRING_INDEX_MASK,
    VRING_NO_FD,
    Config,
    LogArea,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from backends.device import BackendDevice
    from backends.loop import Timer
    from backends.ring import Ring

log = logging.getLogger("backends")

_F = FrontendRequest
#: Slots for ADD_MEM_REG, as libvhost-user has them.
MAX_MEM_SLOTS = 509
REFUSED = 1


class ControlOptions(NamedTuple):
    """How a control plane behaves.

    Attributes:
        policy: how rings are stopped.
        costs: what units of work are made to cost.
        shared: the loop serves other devices as well, and a stop that waits keeps their control
            sockets waiting, as it does in DPDK, SPDK, VPP and passt.
    """

    policy: StopPolicy = StopPolicy()
    costs: Costs = Costs()
    shared: bool = False


class Stop(NamedTuple):
    """A request that is answered when these rings have nothing in flight any more."""

    request: Request
    rings: Sequence[Ring]


class Control:
    """Serves one connection of a front-end.

    Args:
        device: what it speaks to.
        sock: the connection; it is closed when the front-end has gone.
        options: how it behaves.
        on_gone: called when the front-end has gone and the device can take another one.
    """

    def __init__(
        self,
        device: BackendDevice,
        sock: socket.socket,
        options: ControlOptions,
        on_gone: Callable[[], None],
    ) -> None:
        self._device = device
        self._loop = device.loop
        self._options = options
        self._instant = options.policy.instant
        self._drains = options.policy.kind is StopKind.DRAIN
        self._on_gone = on_gone
        self._connection = BackendConnection(
            sock,
            name=device.name,
            features=device.features,
            protocol_features=device.protocol_features,
            num_queues=len(device.rings),
        )
        self._fd = self._connection.fileno()
        self._inbox: deque[Request] = deque()
        self._stops: deque[Stop] = deque()
        self._episode = (-1, 0)
        self._timer: Timer | None = None
        self._to_look: dict[Ring, None] = {}
        self._arrival = 0
        self._leaving = False
        self._handlers: dict[int, Callable[[Request], bool | None]] = self._make_handlers()
        self._watched = False
        self._writing = False
        device.on_idle = self._on_idle
        self._watch(select.EPOLLIN)

    def close(self) -> None:
        """Leave the front-end; the loop has ended."""
        self._drop_requests()
        self._connection.close()

    def _make_handlers(self) -> dict[int, Callable[[Request], bool | None]]:
        return {
            _F.GET_FEATURES: self._get_features,
            _F.SET_FEATURES: self._set_features,
            _F.SET_OWNER: self._accept,
            _F.RESET_OWNER: self._accept,
            _F.GET_PROTOCOL_FEATURES: self._get_protocol_features,
            _F.SET_PROTOCOL_FEATURES: self._accept,
            _F.GET_QUEUE_NUM: self._get_queue_num,
            _F.SET_MEM_TABLE: self._set_mem_table,
            _F.GET_MAX_MEM_SLOTS: self._get_max_mem_slots,
            _F.ADD_MEM_REG: self._add_mem_reg,
            _F.REM_MEM_REG: self._rem_mem_reg,
            _F.SET_LOG_BASE: self._set_log_base,
            _F.SET_LOG_FD: self._close_fds,
            _F.SET_VRING_NUM: self._set_vring_num,
            _F.SET_VRING_ADDR: self._set_vring_addr,
            _F.SET_VRING_BASE: self._set_vring_base,
            _F.SET_VRING_KICK: self._set_vring_kick,
            _F.SET_VRING_CALL: self._set_vring_call,
            _F.SET_VRING_ERR: self._set_vring_err,
            _F.SET_VRING_ENABLE: self._set_vring_enable,
            _F.GET_VRING_BASE: self._get_vring_base,
            _F.RESET_DEVICE: self._reset_device,
            _F.GET_CONFIG: self._get_config,
            **self._device.extra_handlers(),
        }

    # Requests in, replies out

    def _on_ready(self, events: int) -> None:
        if self._loop.must_wait(self, self._resume_reading):
            self._unwatch()
            return
        if events & select.EPOLLOUT and not self._flush():
            return
        self._arrival = time.monotonic_ns()
        try:
            requests = self._connection.receive()
        except Disconnected:
            self._leave()
            return
        except FrontendError as error:
            self._blame(error)
            return
        if self._inbox or self._stops:
            self._inbox.extend(requests)
            self._work()
        else:
            self._serve_all(requests)

    def _resume_reading(self) -> None:
        if not self._leaving:
            self._watch(select.EPOLLOUT if self._writing else select.EPOLLIN)

    def _watch(self, events: int) -> None:
        self._loop.watch(self._fd, self._on_ready, events)
        self._watched = True

    def _unwatch(self) -> None:
        if self._watched:
            self._watched = False
            self._loop.unwatch(self._fd)

    def _serve_all(self, requests: Sequence[Request]) -> None:
        for number, request in enumerate(requests, 1):
            self._serve(request)
            if self._stops or self._leaving:
                # What comes after a stop that waits, waits as well.
                self._inbox.extend(requests[number:])
                break
        self._work()

    def _work(self) -> None:
        """Serve what is waiting, as far as pending stops allow; then answer, then look."""
        inbox = self._inbox
        while inbox and not self._leaving:
            if self._stops and inbox[0].id != _F.GET_VRING_BASE:
                break
            self._serve(inbox.popleft())
        if self._leaving:
            self._drop_requests()
            return
        self._flush()
        self._loop.finally_(self._device.flush_retired)
        if self._to_look:
            rings, self._to_look = list(self._to_look), {}
            for ring in rings:
                self._device.look(ring)

    def _serve(self, request: Request) -> None:
        handler = self._handlers.get(request.id)
        try:
            if handler is None:
                self._device.retire_fds(request.fds)
                raise FrontendError("is not served by this device")
            if handler(request) is None and request.need_reply:
                self._connection.ack(request)
        except FrontendError as error:
            error.message = error.message or wire_name(request.id)
            self._refuse(request, error)
        except Disconnected:
            self._device.retire_fds(request.fds)

    def _refuse(self, request: Request, error: FrontendError) -> None:
        """Tell the front-end if it wants to know; else there is only one way to tell it."""
        error.device = self._device.name
        own_reply = request.id in _OWN_REPLY
        if request.need_reply and not own_reply:
            log.warning("%s", error)
            self._connection.ack(request, REFUSED)
        else:
            self._blame(error)

    def _blame(self, error: FrontendError) -> None:
        error.device = self._device.name
        log.error("%s; connection closed", error)
        self._leave()

    def _flush(self) -> bool:
        """Send the replies; until they are gone, nothing more is read."""
        try:
            done = self._connection.flush()
        except Disconnected:
            self._leave()
            return False
        if done is self._writing:
            self._writing = not done
            if self._watched:
                self._loop.change(self._fd, select.EPOLLIN if done else select.EPOLLOUT)
        return done

    def _pay(self, cost: int) -> None:
        """Take as long as the unit is said to cost; what was answered before goes out first."""
        self._flush()
        if self._leaving:
            raise Disconnected("the front-end has gone", device=self._device.name)
        self._loop.pacer.charge(self._arrival, cost)

    def _reply(self, request: Request, payload: U64 | VringState | Config | None) -> bool:
        self._connection.reply(request, payload)
        return True

    # The front-end goes

    def _leave(self) -> None:
        if self._leaving:
            return
        self._leaving = True
        self._unwatch()
        for ring in self._device.rings:
            self._device.halt(ring)
            ring.stopping = True
        self._stops.clear()
        self._drop_requests()
        self._connection.close()
        self._leave_when_idle()

    def _leave_when_idle(self) -> None:
        if any(ring.in_flight for ring in self._device.rings):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._device.on_idle = None
        self._device.reset()
        self._device.forget_memory()
        self._loop.finally_(self._device.flush_retired)
        self._loop.give_control(self)
        self._on_gone()

    def _drop_requests(self) -> None:
        for request in self._inbox:
            self._device.retire_fds(request.fds)
        self._inbox.clear()

    # Stops

    def _get_vring_base(self, request: Request) -> bool:
        device = self._device
        ring = device.rings[request.payload.index]  # type: ignore[union-attr, index]
        cost = self._options.costs.get_vring_base
        if cost:
            self._pay(cost)
        if self._drains:
            device.drain(ring)
        if (self._instant or not ring.started) and not ring.in_flight and not self._stops:
            self._connection.reply(request, VringState(ring.index, device.stop(ring)))
        else:
            self._begin_stop(request, [ring])
        return True

    def _reset_device(self, request: Request) -> bool | None:
        rings = self._device.rings
        if not self._stops and not any(ring.started or ring.in_flight for ring in rings):
            self._device.reset()
            return None
        self._begin_stop(request, rings)
        return True

    def _begin_stop(self, request: Request, rings: Sequence[Ring]) -> None:
        starts = self._device.counters[stats.RING_STARTS]
        if starts != self._episode[0]:
            self._episode = (starts, time.monotonic_ns())
        for ring in rings:
            self._device.halt(ring)
            ring.stopping = True
        self._stops.append(Stop(request, rings))
        self._check_stops()

    def _check_stops(self) -> None:
        """Answer the stops that have nothing more to wait for, in order."""
        begun = self._episode[1]
        now = time.monotonic_ns()
        ready = self._options.policy.ready_at(begun)
        while self._stops and now >= ready:
            request, rings = self._stops[0]
            if any(ring.in_flight for ring in rings):
                if now > ready + DRAIN_LIMIT_NS:
                    self._blame(FrontendError("requests in flight did not end in time"))
                    return
                break
            self._stops.popleft()
            self._finish_stop(request, rings)
        if self._stops:
            self._wait_for_stops(begun, now)
        else:
            self._loop.give_control(self)

    def _wait_for_stops(self, begun: int, now: int) -> None:
        if self._options.shared:
            self._loop.take_control(self)
        if self._timer is not None:
            self._timer.cancel()
        due = self._options.policy.next_look(begun, now)
        if due is None:
            due = self._options.policy.ready_at(begun) + DRAIN_LIMIT_NS + 1
        self._timer = self._loop.at(due, self._on_timer)

    def _finish_stop(self, request: Request, rings: Sequence[Ring]) -> None:
        if request.id == _F.GET_VRING_BASE:
            ring = rings[0]
            base = self._device.stop(ring)
            self._connection.reply(request, VringState(ring.index, base))
        else:
            self._device.reset()
            self._connection.ack(request)

    def _on_timer(self) -> None:
        self._timer = None
        if not self._leaving:
            self._check_stops()
            self._work()

    def _on_idle(self, _ring: Ring) -> None:
        if self._leaving:
            self._leave_when_idle()
        elif self._options.policy.kind is not StopKind.TICK:
            self._check_stops()
            self._work()

    # Features

    def _accept(self, _request: Request) -> None:
        """The session has taken note of it, and there is nothing more to do."""

    def _get_features(self, request: Request) -> bool:
        return self._reply(request, U64(self._device.features))

    def _set_features(self, request: Request) -> None:
        acked = cast("U64", request.payload).value
        unknown = acked & ~self._device.features
        if unknown:
            raise FrontendError(f"features {unknown:#x} were not offered")
        self._device.set_features(acked)
        self._to_look.update(dict.fromkeys(self._device.rings))

    def _get_protocol_features(self, request: Request) -> bool:
        return self._reply(request, U64(int(self._device.protocol_features)))

    def _get_queue_num(self, request: Request) -> bool:
        return self._reply(request, U64(self._device.queue_num))

    def _get_config(self, request: Request) -> bool:
        asked = cast("Config", request.payload)
        data = self._device.read_config(asked.offset, len(asked.data))
        # An empty reply says that there is no such thing.
        return self._reply(request, asked._replace(data=data) if data is not None else None)

    # Memory

    def _set_mem_table(self, request: Request) -> None:
        cost = self._options.costs.set_mem_table
        if cost:
            self._pay(cost)
        regions = cast("MemTable", request.payload).regions
        self._device.memory.replace(regions, request.fds)
        self._memory_changed()

    def _get_max_mem_slots(self, request: Request) -> bool:
        return self._reply(request, U64(MAX_MEM_SLOTS))

    def _add_mem_reg(self, request: Request) -> None:
        memory = self._device.memory
        cost = self._options.costs.set_mem_table
        if cost and not memory.end:
            self._pay(cost)
        if len(memory.regions) >= MAX_MEM_SLOTS:
            self._device.retire_fds(request.fds)
            raise FrontendError(f"there are only {MAX_MEM_SLOTS} slots")
        memory.add(cast("SingleRegion", request.payload).region, request.fds[0])
        self._memory_changed()

    def _rem_mem_reg(self, request: Request) -> None:
        self._device.retire_fds(request.fds)
        self._device.memory.remove(cast("SingleRegion", request.payload).region)
        self._memory_changed()

    def _memory_changed(self) -> None:
        self._device.remap()
        self._to_look.update((ring, None) for ring in self._device.rings if ring.started)

    def _set_log_base(self, request: Request) -> bool | None:
        self._device.retire_fds(request.fds)
        area = request.payload
        if not request.fds or not isinstance(area, LogArea):
            raise FrontendError("a log without a descriptor is not served")
        self._device.set_log(DirtyLog.map(request.fds[0], area.size, area.offset))
        return self._reply(request, U64(0)) if request.need_reply else None

    def _close_fds(self, request: Request) -> None:
        self._device.retire_fds(request.fds)

    # Rings

    def _set_vring_num(self, request: Request) -> None:
        state = cast("VringState", request.payload)
        self._device.rings[state.index].resize(state.num)

    def _set_vring_addr(self, request: Request) -> None:
        addr = cast("VringAddr", request.payload)
        ring = self._device.rings[addr.index]
        self._device.set_addr(ring, addr)
        if ring.started:
            self._to_look[ring] = None

    def _set_vring_base(self, request: Request) -> None:
        state = cast("VringState", request.payload)
        if state.num > 0xFFFF:
            raise FrontendError(f"base {state.num:#x} is no index of a split ring")
        ring = self._device.rings[state.index]
        self._device.set_base(ring, state.num)
        if ring.started:
            self._to_look[ring] = None

    def _set_vring_kick(self, request: Request) -> None:
        ring, fd = self._ring_and_fd(request)
        self._device.set_kick(ring, fd)

    def _set_vring_call(self, request: Request) -> None:
        ring, fd = self._ring_and_fd(request)
        self._device.set_call(ring, fd)

    def _set_vring_err(self, request: Request) -> None:
        ring, fd = self._ring_and_fd(request)
        self._device.set_err(ring, fd)

    def _ring_and_fd(self, request: Request) -> tuple[Ring, int]:
        value = cast("U64", request.payload).value
        fd = -1 if value & VRING_NO_FD else request.fds[0]
        return self._device.rings[value & VRING_INDEX_MASK], fd

    def _set_vring_enable(self, request: Request) -> None:
        state = cast("VringState", request.payload)
        ring = self._device.rings[state.index]
        ring.enabled = state.num != 0
        if ring.started:
            self._to_look[ring] = None


_OWN_REPLY = frozenset(
    {
        _F.GET_FEATURES,
        _F.GET_PROTOCOL_FEATURES,
        _F.GET_QUEUE_NUM,
        _F.GET_MAX_MEM_SLOTS,
        _F.GET_CONFIG,
        _F.GET_VRING_BASE,
        _F.SET_LOG_BASE,
    }
)
