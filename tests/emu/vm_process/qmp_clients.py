"""A VM's monitor in the test's process, and QEMU's own client for it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Self

from qemu.qmp import EventListener, QMPClient

from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path


class Client:
    """The public client ``qemu.qmp``, connected to a monitor; records all events."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client = QMPClient("test")
        self._events = EventListener()

    async def __aenter__(self) -> Self:
        self._client.register_listener(self._events)
        await asyncio.wait_for(self._client.connect(str(self._path)), TIMEOUT)
        return self

    async def __aexit__(self, *_exception: object) -> None:
        with contextlib.suppress(EOFError):  # the server hung up first, as QEMU does
            await asyncio.wait_for(self._client.disconnect(), TIMEOUT)

    async def do(self, command: str, **arguments: object) -> Any:
        """Execute a command; underscores of arguments become dashes."""
        given = {name.replace("_", "-"): value for name, value in arguments.items()}
        return await asyncio.wait_for(self._client.execute(command, given or None), TIMEOUT)

    async def event(self, *names: str) -> dict[str, Any]:
        """The next event of one of these names; others are dropped."""
        while True:
            found = await asyncio.wait_for(self._events.get(), TIMEOUT)
            if found["event"] in names:
                return dict(found)

    async def migration_ends(self) -> str:
        """The last status of the migration."""
        while True:
            status = (await self.event("MIGRATION"))["data"]["status"]
            if status in ("completed", "failed", "cancelled"):
                return str(status)


def unix_chardev(path: str) -> dict[str, object]:
    """The argument ``backend`` of chardev-add for the socket of a back-end."""
    address = {"type": "unix", "data": {"path": path}}
    return {"type": "socket", "data": {"addr": address, "server": False}}
