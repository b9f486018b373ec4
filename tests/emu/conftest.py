"""Fixtures of all tests of the machine: two sides in the test's process, and a VM under load."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from emu.errors import EmuError
from emu.locking.locks import enable_checking
from emu.machine.accel import registry
from tests.emu.migration.sites import Site, await_work

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
def sites(tmp_path: Path, owned: ExitStack) -> tuple[Site, Site]:
    """The back-ends of both sides, on the same images."""
    made = []
    for name in "ab":
        site = Site(name, tmp_path)
        owned.callback(site.close)
        made.append(site)
    return made[0], made[1]


@pytest.fixture
def vm(request: pytest.FixtureRequest, sites: tuple[Site, Site], owned: ExitStack) -> Vm:
    """A VM on the first side, under heavy load, with the accelerator of the parameter, or soft.

    The test is skipped where the accelerator does not work.
    """
    accel = getattr(request, "param", "soft")
    try:
        registry.limits(accel)
    except EmuError as error:
        pytest.skip(str(error))
    made = sites[0].vm(accel=accel)
    owned.callback(made.close)
    made.boot()
    made.guest.start_load("heavy")
    await_work(made)
    return made


@pytest.fixture
def other(sites: tuple[Site, Site], owned: ExitStack) -> Vm:
    """A VM on the second side, which waits for the migration."""
    made = sites[1].vm()
    owned.callback(made.close)
    return made
