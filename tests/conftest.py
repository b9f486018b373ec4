"""The whole session: its options, the limit of each test, and a check of what it leaves behind."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests import leftovers, scheduling, timeouts

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

# The time of an example, and of what makes it, depends on the load of the machine; pytest-timeout
# ends one that hangs.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

_DIRECTORY = pytest.StashKey[leftovers.TemporaryDirectory]()
_LIMIT = pytest.StashKey[Any]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--fault-matrix``: an option must be defined before its directory is collected."""
    parser.addoption(
        "--fault-matrix",
        action="store_true",
        help="Run all cells of tests/faults and print them as a table, not only a few.",
    )


@pytest.fixture
def owned() -> Iterator[ExitStack]:
    """Closes what a test registers here, in reverse order."""
    with ExitStack() as stack:
        yield stack


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make the temporary directory, before pytest takes a part of it.

    Signals that a shell ignores for a job in the background, and nohup, have their effect again:
    the programs that tests start inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, signal.SIG_DFL)
    worker = os.environ.get("PYTEST_XDIST_WORKER", "") if _is_worker(config) else ""
    config.stash[_DIRECTORY] = directory = leftovers.TemporaryDirectory(worker)
    if not worker and config.option.basetemp is None:
        config.option.basetemp = str(directory.base)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests that share what is costly go to one worker, whatever ``--dist`` is."""
    return scheduling.scheduler(config, log)


# -- the time that a test may take


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """``TIMEOUT_SCALE`` applies to the limit of a whole test, too."""
    if timeouts.SCALE != 1:
        for item in items:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(timeouts.TEST_TIMEOUT))


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> None:
    """Remember the limit for the teardown; None lets pytest-timeout set its timer."""
    item.stash[_LIMIT] = settings


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """A teardown has the limit once more, as the test may have used it up.

    The signal of pytest-timeout ends a test whose main thread hangs. The teardown after it may
    hang in its turn; then the process ends with the stacks of all threads, and xdist goes on with
    another one.
    """
    settings = item.stash.get(_LIMIT, None)
    if settings is not None:
        item.ihook.pytest_timeout_cancel_timer(item=item)
        item.ihook.pytest_timeout_set_timer(item=item, settings=settings._replace(method="thread"))
    result = yield
    item.config.stash[_DIRECTORY].look(item.nodeid)
    return result


# -- what is left


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Fail the session if its tests have left anything; workers have ended by now."""
    result = yield
    config = session.config
    if _is_worker(config):
        return result
    directory = config.stash[_DIRECTORY]
    left = [*leftovers.await_no_processes(str(directory.session)), *directory.left()]
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if left and reporter is not None:
        reporter.section("left behind by the tests", red=True)
        for leftover in left:
            reporter.write_line(str(leftover))
    if left and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
    if session.exitstatus == pytest.ExitCode.OK:
        directory.remove()
    elif reporter is not None:
        reporter.write_line(f"the temporary directory is kept: {directory.session}")
    return result
