"""The pytest plugin: the conformance cases as test items. ``pytest --vhost-user-socket PATH``.

pytest imports this module in each run if this package is installed; so it imports only
pytest and the options. `suite` is imported when there is a peer to test.
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
    """Register the suite if there is a peer to test.

    Raises:
        pytest.UsageError: an option has an invalid value.
    """
    for line in (
        "vhost_user(id, area, severity, spec): a conformance case; the plugin sets it.",
        "vhost_user_cases(*only, role): which cases the fixture vhost_user_case runs.",
    ):
        config.addinivalue_line("markers", line)
    names = ("socket", "exec", "device", "dialect", "patience")
    if any(config.getoption(f"vhost_user_{name}") for name in names):
        from vhost_user_conformance.pytest_plugin.suite import Suite

        config.pluginmanager.register(Suite(config), "vhost-user-suite")


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that uses `vhost_user_case` once for each case."""
    if "vhost_user_case" in metafunc.fixturenames:
        from vhost_user_conformance.pytest_plugin.suite import parametrize

        parametrize(metafunc)


@pytest.fixture(scope="session")
def vhost_user_peer(pytestconfig: pytest.Config) -> Target:
    """The peer that the options name. A fixture of this name in a suite replaces it."""
    from vhost_user_conformance.pytest_plugin.suite import Suite

    suite = pytestconfig.pluginmanager.get_plugin("vhost-user-suite")
    if not isinstance(suite, Suite):
        pytest.skip(f"no peer to test: give {PREFIX}socket PATH or {PREFIX}exec COMMAND")
    return suite.target


@pytest.fixture
def vhost_user_case(request: pytest.FixtureRequest, vhost_user_peer: Target) -> CaseRun:
    """One conformance case, ready to run: ``vhost_user_case.check()``."""
    from vhost_user_conformance.pytest_plugin.suite import CaseRun

    return CaseRun.made(request, vhost_user_peer)
