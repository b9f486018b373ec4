"""Fixtures of VM tests: two hosts in the test's process, and a VM under load."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.locking.locks import enable_checking
from emu.machine.accel import registry
from tests.emu.migration.hosts import Host, await_requests

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from emu.vm.vm import Vm


@pytest.fixture(autouse=True)
def _checked_locks() -> Iterator[None]:
    """Enable the check of the lock order."""
    enable_checking(True)
    yield
    enable_checking(False)


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    """Closes the objects that a test registers here."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def hosts(tmp_path: Path, owned: ExitStack) -> tuple[Host, Host]:
    """The source and the destination host, whose back-ends serve the same images."""
    source, destination = Host("a", tmp_path), Host("b", tmp_path)
    owned.callback(source.close)
    owned.callback(destination.close)
    return source, destination


@pytest.fixture
def vm(request: pytest.FixtureRequest, hosts: tuple[Host, Host], owned: ExitStack) -> Vm:
    """A VM on the source host, under heavy load, with the accelerator of the parameter, or soft.

    The test is skipped where the accelerator does not work.
    """
    accel = getattr(request, "param", "soft")
    try:
        registry.limits(accel)
    except EmuError as error:
        pytest.skip(str(error))
    made = hosts[0].vm(accel=accel)
    owned.callback(made.close)
    made.boot()
    made.guest.start_load("heavy")
    await_requests(made)
    return made


@pytest.fixture
def other(hosts: tuple[Host, Host], owned: ExitStack) -> Vm:
    """A VM on the destination host, which waits for the migration."""
    made = hosts[1].vm()
    owned.callback(made.close)
    return made
