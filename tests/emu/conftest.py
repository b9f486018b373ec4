"""Fixtures of VM tests: two hosts in the test's process, and a VM under load."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.config.vm_spec import VmSpec
from emu.errors import EmuError
from emu.locking.locks import enable_checking
from emu.machine.accel import registry
from tests.emu.early_stops import reply_early
from tests.emu.migration.hosts import SPEC, Host, await_requests
from tests.waiting import wait_until

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from contextlib import ExitStack
    from pathlib import Path

    from emu.vm.vm import Vm


@pytest.fixture(autouse=True)
def _checked_locks() -> Iterator[None]:
    """Enable the check of the lock order."""
    enable_checking(True)
    yield
    enable_checking(False)


@pytest.fixture
def spec(request: pytest.FixtureRequest) -> VmSpec:
    """Both VMs: that of the parameter, or `SPEC`."""
    found = getattr(request, "param", SPEC)
    assert isinstance(found, VmSpec)
    return found


@pytest.fixture
def hosts(tmp_path: Path, owned: ExitStack, spec: VmSpec) -> tuple[Host, Host]:
    """The source and the destination host, whose back-ends serve the same images."""
    source, destination = Host("a", tmp_path, spec), Host("b", tmp_path, spec)
    owned.callback(source.close)
    owned.callback(destination.close)
    return source, destination


@pytest.fixture
def accel(request: pytest.FixtureRequest) -> str:
    """The accelerator of both VMs: that of the parameter, or soft."""
    return str(getattr(request, "param", "soft"))


def _make(host: Host, accel: str, owned: ExitStack) -> Vm:
    """A VM; the test is skipped where the accelerator does not work."""
    try:
        registry.limits(accel)
    except EmuError as error:
        pytest.skip(str(error))
    made = host.vm(accel=accel)
    owned.callback(made.close)
    return made


@pytest.fixture
def vm(accel: str, hosts: tuple[Host, Host], owned: ExitStack) -> Vm:
    """A VM on the source host, under heavy load."""
    made = _make(hosts[0], accel, owned)
    made.boot()
    made.guest.start_load("heavy")
    await_requests(made)
    return made


@pytest.fixture
def other(accel: str, hosts: tuple[Host, Host], owned: ExitStack) -> Vm:
    """A VM on the destination host, which waits for the migration."""
    return _make(hosts[1], accel, owned)


@pytest.fixture
def early(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The back-ends reply to GET_VRING_BASE early (`reply_early`).

    They complete the requests in flight later; with the parameter ``suspends`` they do not.
    """
    reply_early(monkeypatch, suspends=getattr(request, "param", "completes") == "suspends")


@pytest.fixture
def busy(early: None, vm: Vm, hosts: tuple[Host, Host], owned: ExitStack) -> threading.Event:
    """Both disks have taken requests, which they complete when the event is set."""
    release = hosts[0].hold_requests()
    owned.callback(release.set)
    for disk in ("blk0", "blk1"):
        wait_until(lambda disk=disk: hosts[0].requests_taken(disk))  # type: ignore[misc]
    return release
