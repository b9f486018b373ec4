"""What each message does to a device, except for those that stop rings (`backends.stops`).

A handler returns True when it has replied, or will; None has the message acknowledged where the
front-end asked for that. It raises `FrontendError` to refuse. In any case the handler owns the
request's descriptors from the call on: its caller closes none of them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, cast

from backends.limits import MAX_MEM_SLOTS
from vhost_user import inflight
from vhost_user.dirty_log import DirtyLog
from vhost_user.errors import FrontendError
from vhost_user.features import ProtocolFeature
from vhost_user.inflight import InflightRegion
from vhost_user.messages import FrontendRequest, Request, RequestRun
from vhost_user.payloads import (
    U64,
    VRING_INDEX_MASK,
    VRING_NO_FD,
    Config,
    Inflight,
    LogArea,
    MemTable,
    SingleRegion,
    VringAddr,
    VringState,
)
from vhost_user.virtqueue.layout import valid_size

if TYPE_CHECKING:
    from backends.device import BackendDevice
    from backends.ring import Ring
    from vhost_user.backend import BackendConnection
    from vhost_user.payload_layout import Payload
    from vhost_user.payloads import MemoryRegion

_F = FrontendRequest
Handler = Callable[[Request], bool | None]
#: Handles a run of messages: as a handler of each of them, or returns False and has done nothing.
RunHandler = Callable[[RequestRun], bool]


class Handlers:
    """The handlers of one connection.

    Args:
        device: the device that the messages are for.
        connection: where replies go.
        table_latency: nanoseconds that a memory table takes.
        inject: takes that long.

    Attributes:
        to_poll: rings to poll when the messages that have come are answered, in order.
        sending: descriptors that go with replies, until these have been sent.
    """

    def __init__(
        self,
        device: BackendDevice,
        connection: BackendConnection,
        table_latency: int,
        inject: Callable[[int], None],
    ) -> None:
        self._device = device
        self._connection = connection
        self._table_latency = table_latency
        self._inject = inject
        self.sending: list[int] = []
        self.to_poll: dict[Ring, None] = {}

    def handlers(self) -> dict[int, Handler]:
        """Message id to handler, those of the device's class included."""
        return {
            _F.GET_FEATURES: self._get_features,
            _F.SET_FEATURES: self._set_features,
            _F.SET_OWNER: self._accept,
            _F.RESET_OWNER: self._accept,
            _F.GET_PROTOCOL_FEATURES: self._get_protocol_features,
            _F.SET_PROTOCOL_FEATURES: self._accept,
            _F.GET_QUEUE_NUM: self._get_queue_num,
            _F.SET_MEM_TABLE: self.set_mem_table,
            _F.GET_MAX_MEM_SLOTS: self._get_max_mem_slots,
            _F.ADD_MEM_REG: self.add_mem_reg,
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
            _F.GET_STATUS: self._get_status,
            _F.GET_CONFIG: self._get_config,
            _F.GET_INFLIGHT_FD: self._get_inflight_fd,
            _F.SET_INFLIGHT_FD: self._set_inflight_fd,
        }

    def run_handlers(self) -> dict[int, RunHandler]:
        """The messages of which a run is handled at once, by id."""
        return {
            _F.SET_VRING_ADDR: partial(_handle_run, self._set_addrs),
            _F.SET_VRING_BASE: partial(_handle_run, self._set_bases),
            _F.SET_VRING_ENABLE: partial(_handle_run, self._enable_rings),
        }

    # Between two messages

    def poll_rings(self) -> None:
        """Poll the rings that may have requests since they were set up."""
        rings, self.to_poll = self.to_poll, {}
        for ring in rings:
            ring.poll()

    def close_reply_fds(self) -> None:
        """Close the descriptors of queued replies, which have all been sent, or never will be."""
        self._device.close_later(self.sending)
        self.sending.clear()

    def reply_with_fd(self, request: Request, payload: Payload | None, fd: int) -> bool:
        """Reply with a descriptor, which is closed when the reply has been sent."""
        self._connection.reply(request, payload, (fd,))
        self.sending.append(fd)
        return True

    def _reply(self, request: Request, payload: U64 | Config | None) -> bool:
        self._connection.reply(request, payload)
        return True

    # Features

    def _accept(self, _request: Request) -> None:
        """The session keeps track of it, and there is nothing else to do."""

    def _get_features(self, request: Request) -> bool:
        return self._reply(request, U64(self._device.features))

    def _set_features(self, request: Request) -> None:
        acked = cast("U64", request.payload).value
        unknown = acked & ~self._device.features
        if unknown:
            raise FrontendError(f"features {unknown:#x} were not offered")
        self._device.set_features(acked)
        self.to_poll.update(dict.fromkeys(self._device.rings))

    def _get_protocol_features(self, request: Request) -> bool:
        return self._reply(request, U64(int(self._device.protocol_features)))

    def _get_queue_num(self, request: Request) -> bool:
        return self._reply(request, U64(self._device.virtio.queue_num))

    def _get_status(self, request: Request) -> bool:
        return self._reply(request, U64(self._device.status))

    def _get_config(self, request: Request) -> bool:
        asked = cast("Config", request.payload)
        data = self._device.read_config(asked.offset, len(asked.data))
        # An empty reply reports an error.
        return self._reply(request, asked._replace(data=data) if data is not None else None)

    # Memory

    def set_mem_table(self, request: Request) -> None:
        """SET_MEM_TABLE, outside of postcopy."""
        payload = request.payload
        # No region looks like the acknowledgement that belongs to postcopy: 8 bytes of 0.
        postcopy = ProtocolFeature.PAGEFAULT in self._connection.session.protocol_features
        if isinstance(payload, U64) and (payload.value or postcopy):
            raise FrontendError("without regions it belongs to postcopy")
        regions = payload.regions if isinstance(payload, MemTable) else ()
        self._check_log(request, regions)
        self._device.memory.replace(regions, request.fds)
        self.memory_changed()
        # Injected last: the time of the work itself is a part of the latency.
        if self._table_latency:
            self._inject(self._table_latency)

    def _get_max_mem_slots(self, request: Request) -> bool:
        return self._reply(request, U64(MAX_MEM_SLOTS))

    def add_mem_reg(self, request: Request) -> None:
        """ADD_MEM_REG, outside of postcopy."""
        if not isinstance(request.payload, SingleRegion):
            raise FrontendError("without a region it belongs to postcopy")
        memory = self._device.memory
        first = not memory.end
        if len(memory.regions) >= MAX_MEM_SLOTS:
            self._device.close_later(request.fds)
            raise FrontendError(f"there are only {MAX_MEM_SLOTS} slots")
        region = request.payload.region
        self._check_log(request, [region])
        memory.add(region, request.fds[0])
        self.memory_changed()
        if self._table_latency and first:
            self._inject(self._table_latency)

    def _rem_mem_reg(self, request: Request) -> None:
        self._device.close_later(request.fds)
        self._device.memory.remove(cast("SingleRegion", request.payload).region)
        self.memory_changed()

    def _check_log(self, request: Request, regions: Sequence[MemoryRegion]) -> None:
        """Refuse memory that the log in use does not cover: a front-end enlarges the log first."""
        end = max((region.gpa + region.size for region in regions), default=0)
        try:
            self._device.check_log(self._device.guest.acked, end)
        except FrontendError:
            self._device.close_later(request.fds)
            raise

    def memory_changed(self) -> None:
        """Guest memory is another one: the rings are mapped again."""
        self._device.remap()
        self.to_poll.update((ring, None) for ring in self._device.rings if ring.started)

    def _set_log_base(self, request: Request) -> bool | None:
        self._device.close_later(request.fds)
        area = request.payload
        if not request.fds or not isinstance(area, LogArea):
            raise FrontendError("a log without a descriptor is not served")
        self._device.set_log(DirtyLog.map(request.fds[0], area.size, area.offset))
        return self._reply(request, U64(0)) if request.need_reply else None

    def _close_fds(self, request: Request) -> None:
        self._device.close_later(request.fds)

    # The inflight region

    def _get_inflight_fd(self, request: Request) -> bool:
        asked = cast("Inflight", request.payload)
        rings, size = asked.num_queues, asked.queue_size
        if not 0 < rings <= len(self._device.rings) or not valid_size(size):
            raise FrontendError(f"an inflight region for {rings} rings of {size} descriptors")
        try:
            fd, length = inflight.create(rings, size)
        except OSError as error:
            raise FrontendError(f"no inflight region: {error.strerror}") from error
        return self.reply_with_fd(request, Inflight(length, 0, rings, size), fd)

    def _set_inflight_fd(self, request: Request) -> None:
        wanted = cast("Inflight", request.payload)
        self._device.close_later(request.fds)
        if not valid_size(wanted.queue_size):
            raise FrontendError(f"an inflight region for rings of {wanted.queue_size} descriptors")
        region = InflightRegion(
            request.fds[0],
            wanted.mmap_size,
            wanted.mmap_offset,
            wanted.num_queues,
            wanted.queue_size,
        )
        self._device.set_inflight(region)

    # Rings

    def _set_vring_num(self, request: Request) -> None:
        state = cast("VringState", request.payload)
        ring = self._device.rings[state.ring]
        ring.set_size(state.num)
        if ring.started:
            self.to_poll[ring] = None

    def _set_vring_addr(self, request: Request) -> None:
        self._set_addrs((cast("VringAddr", request.payload),))

    def _set_addrs(self, payloads: Iterable[tuple[int, ...]]) -> None:
        rings = self._device.rings
        for addr in payloads:
            ring = rings[addr[0]]
            ring.set_addr(addr)
            if ring.started:
                self.to_poll[ring] = None

    def _set_vring_base(self, request: Request) -> None:
        self._set_bases((cast("VringState", request.payload),))

    def _set_bases(self, states: Iterable[tuple[int, ...]]) -> None:
        rings = self._device.rings
        for index, num in states:
            if num > 0xFFFF:
                raise FrontendError(f"base {num:#x} is not an index of a split ring")
            ring = rings[index]
            ring.set_base(num)
            if ring.started:
                self.to_poll[ring] = None

    def _set_vring_kick(self, request: Request) -> None:
        ring, fd = self._ring_and_fd(request)
        ring.set_kick(fd)

    def _set_vring_call(self, request: Request) -> None:
        ring, fd = self._ring_and_fd(request)
        ring.set_call(fd)

    def _set_vring_err(self, request: Request) -> None:
        ring, fd = self._ring_and_fd(request)
        ring.set_err(fd)

    def _ring_and_fd(self, request: Request) -> tuple[Ring, int]:
        value = cast("U64", request.payload).value
        ring = self._device.rings[value & VRING_INDEX_MASK]
        if value & VRING_NO_FD:
            return ring, -1
        fd = request.fds[0]
        if stat.S_ISSOCK(os.fstat(fd).st_mode):
            # It may be the front-end's own end of this connection: while that is held here, the
            # connection does not end, and the next front-end waits for ever.
            self._device.close_later(request.fds)
            raise FrontendError("a socket is not an event descriptor", ring=ring.index)
        return ring, fd

    def _set_vring_enable(self, request: Request) -> None:
        self._enable_rings((cast("VringState", request.payload),))

    def _enable_rings(self, states: Iterable[tuple[int, ...]]) -> None:
        rings = self._device.rings
        for index, num in states:
            ring = rings[index]
            ring.enabled = num != 0
            if ring.started:
                self.to_poll[ring] = None


def _handle_run(handle: Callable[[Iterable[tuple[int, ...]]], None], run: RequestRun) -> bool:
    """Handle a run to which no reply is due; False if there is one due to each message."""
    if run.need_reply:
        return False
    handle(run.payloads)
    return True
