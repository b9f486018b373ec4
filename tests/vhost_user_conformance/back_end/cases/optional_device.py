"""A disk with features that ours does not have.

They are device state, rings with a byte order, stops that do not wait for requests, and rings at
guest addresses.

Run as a program, it is ``vhost-emu-blk`` with these; ``MISTAKE`` in its environment selects a
mistake.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, cast

from backends import blk, control
from backends.blk_device import BlkDevice
from backends.handlers import Handler, Handlers
from vhost_user.errors import FrontendError
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest, Request
from vhost_user.payloads import U64, VRING_NO_FD, VringState

if TYPE_CHECKING:
    from collections.abc import Callable

    from backends.device import BackendDevice
    from vhost_user.backend import BackendConnection
    from vhost_user.payloads import DeviceState, MemTable

_F = FrontendRequest
MISTAKE = os.environ.get("MISTAKE", "")
STATE = b"the state of a disk " * 20
_REFUSED = 1


class OptionalHandlers(Handlers):
    """The handlers of one connection."""

    def __init__(
        self,
        device: BackendDevice,
        connection: BackendConnection,
        table_latency: int,
        inject: Callable[[int], None],
    ) -> None:
        super().__init__(device, connection, table_latency, inject)
        self._result: Callable[[], int] = lambda: _REFUSED

    def handlers(self) -> dict[int, Handler]:
        """The handlers of vhost-emu-blk, and those of the further features."""
        return {
            **super().handlers(),
            _F.SET_DEVICE_STATE_FD: self._set_device_state_fd,
            _F.CHECK_DEVICE_STATE: self._check_device_state,
            _F.SET_VRING_ENDIAN: self._set_vring_endian,
            _F.GET_VRING_BASE_SKIP_DRAIN: self._get_vring_base_skip_drain,
        }

    def _get_vring_base_skip_drain(self, request: Request) -> bool:
        """This disk completes a request before it handles the next message."""
        ring = self._device.rings[cast("VringState", request.payload).ring]
        base = ring.stop()
        if MISTAKE == "base forgotten":
            base = 0
        self._connection.reply(request, VringState(ring.index, base))
        return True

    def set_mem_table(self, request: Request) -> None:
        """See `Handlers.set_mem_table`."""
        table = cast("MemTable", request.payload)
        if MISTAKE == "user addresses only" and any(
            region.user_addr == region.gpa for region in table.regions
        ):
            raise FrontendError("a user address is needed")
        super().set_mem_table(request)

    def _set_device_state_fd(self, request: Request) -> bool:
        asked = cast("DeviceState", request.payload)
        fd = request.fds[0]
        if self._device.running:
            self._device.close_later(request.fds)
            return self._answer(request, _REFUSED)
        work = self._save if asked.direction == 0 else self._load
        results: list[int] = []
        thread = threading.Thread(target=lambda: results.append(work(fd)), daemon=True)
        thread.start()

        def result() -> int:
            thread.join()
            return results[0]

        self._result = result
        return self._answer(request, 0)

    def _answer(self, request: Request, error: int) -> bool:
        if MISTAKE == "descriptor with an error" and error:
            self._connection.reply(request, U64(error), (0,))
            return True
        flag = 0 if MISTAKE == "bit 8 clear" else VRING_NO_FD
        return self._reply(request, U64(error | flag))

    @staticmethod
    def _save(fd: int) -> int:
        os.set_blocking(fd, True)
        try:
            with open(fd, "wb", closefd=MISTAKE != "no end") as file:
                file.write(STATE)
        except BrokenPipeError:
            return _REFUSED
        return 0

    @staticmethod
    def _load(fd: int) -> int:
        os.set_blocking(fd, True)
        with open(fd, "rb") as file:
            data = file.read()
        if MISTAKE == "loads a part":
            return 0
        if MISTAKE == "loads nothing":
            return _REFUSED
        return 0 if data == STATE else _REFUSED

    def _check_device_state(self, request: Request) -> bool:
        return self._reply(request, U64(self._result()))

    @staticmethod
    def _set_vring_endian(request: Request) -> None:
        if cast("VringState", request.payload).num > 1:
            raise FrontendError("no such order of bytes")


class OptionalDisk(BlkDevice):
    """The disk."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **options)  # type: ignore[arg-type]
        self.protocol_features |= (
            ProtocolFeature.DEVICE_STATE
            | ProtocolFeature.CROSS_ENDIAN
            | ProtocolFeature.GPA_ADDRESSES
            | ProtocolFeature.GET_VRING_BASE_INFLIGHT
            | ProtocolFeature.GET_VRING_BASE_SKIP_DRAIN
        )


if __name__ == "__main__":
    control.Handlers = OptionalHandlers  # type: ignore[attr-defined]
    blk.BlkDevice = OptionalDisk  # type: ignore[attr-defined]
    blk.main()
