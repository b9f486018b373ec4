"""Devices in threads, and front-ends for them, closed at the end of the test."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Unpack

import pytest

from backends.control import ControlOptions
from backends.loop import Loop
from backends.server import DeviceServer
from tests.backends.rig import Rig, RigOptions
from tests.backends.served import pair
from vhost_user.virtqueue import batch

if TYPE_CHECKING:
    from backends.virtio_device import VirtioDevice

Serve = Callable[..., Rig]
NATIVE = ControlOptions()


@pytest.fixture(scope="session", autouse=True)
def _frozen() -> Iterator[None]:
    """A device collects garbage when its front-end disconnects: not among all that pytest has.

    The programs do the same when they start. With a sanitizer such a collection takes seconds.
    """
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(params=[True, False], ids=["compiled", "python"])
def compiled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether compiled functions serve the rings of this process, which have the same rules."""
    if request.param and not batch.enabled:
        pytest.skip("the compiled extension was not built")
    monkeypatch.setattr(batch, "enabled", request.param)
    return bool(request.param)


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop whose thread runs, closed after everything that uses it."""
    running = Loop("test")
    running.start()
    yield running
    running.stop()
    running.close()


@pytest.fixture
def attach() -> Iterator[Serve]:
    """Connects a front-end to a device: a `Rig` whose rings are not set up yet."""
    with ExitStack() as stack:

        def make(
            device: VirtioDevice, options: ControlOptions = NATIVE, **rig: Unpack[RigOptions]
        ) -> Rig:
            connection, sock = pair()
            servers: list[DeviceServer] = []
            device.loop.post(lambda: servers.append(DeviceServer(device, sock, options)))
            made = Rig(connection, device.num_rings, **rig)
            made.backend = servers[0].device
            stack.callback(servers[0].close)
            stack.callback(device.loop.base.stop)
            stack.callback(made.close)
            return made

        yield make
