"""The replies of a correct back-end, within what the script offers."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vhost_user import inflight
from vhost_user.payloads import U64, VRING_NO_FD, Inflight, VringState
from vhost_user_conformance.front_end.descriptors import describe
from vhost_user_conformance.front_end.recording import STOPS, F, ReturnedBase

if TYPE_CHECKING:
    from vhost_user_conformance.front_end.ring_service import RingService
    from vhost_user_conformance.front_end.script import Script
    from vhost_user_conformance.model.device_class import DeviceClass
    from vhost_user_conformance.peer.wire import Message


class Replies:
    """Builds the replies of a correct back-end in one session.

    Args:
        script: what the back-end offers.
        device: class of the device.
        service: its rings, and the recording.

    Attributes:
        status: of the device, as SET_STATUS has set it.
    """

    def __init__(self, script: Script, device: DeviceClass, service: RingService) -> None:
        self.status = 0
        self._script = script
        self._device = device
        self._service = service
        self._inflight: tuple[int, int] | None = None

    def reply_to(self, message: Message) -> tuple[bytes, tuple[int, ...]]:
        """The payload and the descriptors; GET_VRING_BASE stops its ring."""
        if message.id in STOPS:
            return self._stop_ring(message), ()
        if message.id == F.GET_CONFIG:
            return self._config(message.payload), ()
        if message.id == F.GET_INFLIGHT_FD:
            return self._inflight_fd(message.payload)
        values = {
            F.GET_FEATURES: self._script.features(self._device),
            F.GET_PROTOCOL_FEATURES: self._script.protocol(self._device),
            F.GET_QUEUE_NUM: self._script.queues,
            F.GET_MAX_MEM_SLOTS: self._script.slots,
            F.SET_DEVICE_STATE_FD: VRING_NO_FD,
            F.GET_STATUS: self.status,
        }
        known = message.id in F._value2member_map_
        if known and F(message.id) in values:
            return U64(values[F(message.id)]).pack(), ()
        recording = self._service.recording
        if message.id == self._script.refuses:
            recording.marks.append((len(recording.messages), "a refusal"))
            return U64(1).pack(), ()
        return U64(0).pack(), ()

    def _stop_ring(self, message: Message) -> bytes:
        index = VringState.unpack(message.payload[:8].ljust(8, b"\0")).ring
        base = self._service.stop(index)
        recording = self._service.recording
        recording.bases.append(ReturnedBase(len(recording.messages) - 1, index, base))
        return VringState(index, base).pack()

    def _config(self, request: bytes) -> bytes:
        offset, size = (int.from_bytes(request[at : at + 4], "little") for at in (0, 4))
        space = self._device.config.ljust(256, b"\0")
        if offset + size > len(space):
            return b""
        return request[:12] + space[offset : offset + size]

    def _inflight_fd(self, request: bytes) -> tuple[bytes, tuple[int, ...]]:
        wanted = Inflight.unpack(request[:24].ljust(24, b"\0"))
        fd, size = inflight.create(max(wanted.num_queues, 1), max(wanted.queue_size, 1))
        self.close()
        self._inflight = (fd, size)
        region = Inflight(size, 0, wanted.num_queues, wanted.queue_size)
        self._service.recording.regions.append((region, describe(fd)))
        return region.pack(), (fd,)

    def close(self) -> None:
        """Close the inflight region, if there is one."""
        if self._inflight is not None:
            os.close(self._inflight[0])
            self._inflight = None
