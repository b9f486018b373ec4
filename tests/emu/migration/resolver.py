"""Names of hosts that are resolved late; a real resolver waits for servers."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING, Any

from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    import pytest


def late_resolver(monkeypatch: pytest.MonkeyPatch, address: str) -> threading.Event:
    """All names are resolved to this address, and only after the event."""
    answered = threading.Event()
    real = socket.getaddrinfo

    def look_up(host: str, port: int, **more: Any) -> Any:
        if more["flags"] & socket.AI_NUMERICHOST:
            return real(host, port, **more)
        assert answered.wait(TIMEOUT)
        return real(address, port, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return answered
