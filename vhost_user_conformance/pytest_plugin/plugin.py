"""pytest's plugin: the conformance cases as test items. ``pytest --vhost-user-socket PATH``.

pytest imports this module in every run, wherever this package is installed; so it imports nothing
but pytest, and all that does something is in `pytest_suite`, which is imported when there is a peer
to test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vhost_user_conformance.pytest_plugin.options import PREFIX, pytest_addoption

if TYPE_CHECKING:
    from vhost_user_conformance.pytest_plugin.suite import CaseRun
    from vhost_user_conformance.target import Target

__all__ = ["pytest_addoption"]


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Bring in the suite if there is a peer to test.

    Raises:
        pytest.UsageError: an option makes no sense.
    """
    for line in (
        "vhost_user(id, area, severity, spec): a conformance case; vhost-emu puts it there.",
        "vhost_user_cases(*only, role): which cases the fixture vhost_user_case runs.",
    ):
        config.addinivalue_line("markers", line)
    names = ("socket", "exec", "device", "dialect", "patience")
    if any(config.getoption(f"vhost_user_{name}") for name in names):
        from vhost_user_conformance.pytest_plugin.suite import Suite

        config.pluginmanager.register(Suite(config), "vhost-user-suite")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `vhost_user_case` is run once for each case."""
    if "vhost_user_case" in metafunc.fixturenames:
        from vhost_user_conformance.pytest_plugin.suite import parametrize

        parametrize(metafunc)


@pytest.fixture(scope="session")
def vhost_user_peer(pytestconfig: pytest.Config) -> Target:
    """The peer that the options name. Define your own fixture of this name to say it in Python."""
    from vhost_user_conformance.pytest_plugin.suite import Suite

    suite = pytestconfig.pluginmanager.get_plugin("vhost-user-suite")
    if not isinstance(suite, Suite):
        pytest.skip(f"no peer to test: say {PREFIX}socket PATH or {PREFIX}exec COMMAND")
    return suite.target


@pytest.fixture
def vhost_user_case(request: pytest.FixtureRequest, vhost_user_peer: Target) -> CaseRun:
    """One conformance case, ready to run: ``vhost_user_case.check()``."""
    from vhost_user_conformance.pytest_plugin.suite import CaseRun

    return CaseRun.made(request, vhost_user_peer)
