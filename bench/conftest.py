"""Hooks and fixtures of all benchmarks: units, groups, the floor, and the summary at the end."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest

from bench import floor_program
from bench.figures import Figure, table
from bench.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bench.floor_program import Floor

_FIGURES = pytest.StashKey[list[Figure]]()
#: Groups whose times are milliseconds; all others are microseconds.
_SLOW_GROUPS = ("downtime", "stop and start", "address space", "kvm", "streams")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_FIGURES] = []
    config.pluginmanager.register(Recorder(config.invocation_params.args))


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_scale_unit(
    config: pytest.Config, unit: str, benchmarks: Sequence[dict[str, Any]]
) -> tuple[str, float] | None:
    """One unit for each kind of benchmark, so that runs can be compared at a glance."""
    if unit != "seconds" or config.getoption("benchmark_time_unit"):
        return None
    slow = any(str(bench["group"]).startswith(_SLOW_GROUPS) for bench in benchmarks)
    return ("m", 1e3) if slow else ("u", 1e6)


@pytest.fixture
def figure(request: pytest.FixtureRequest, benchmark: Any) -> Iterator[Figure]:
    """This benchmark's figure; the values that the test sets are in the JSON and the summary.

    A test that does not set ``benchmark.group`` before it is timed is in the group of its file.
    """
    benchmark.group = request.node.module.__name__.removeprefix("bench.bench_").replace("_", " ")
    figure = Figure(request.node.name.removeprefix("test_"), benchmark.extra_info)
    yield figure
    if benchmark.stats is None:
        return
    figure.group = benchmark.group
    figure.finish(benchmark.stats.stats.median)
    request.config.stash[_FIGURES].append(figure)
    if figure.ratio is not None:
        _say(request.config, figure.line())


def _say(config: pytest.Config, line: str) -> None:
    """Print a line now, in the middle of the dots."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if capture is not None and reporter is not None:
        with capture.global_and_fixture_disabled():
            reporter.write_line(line)


@pytest.fixture(scope="session")
def floor() -> Callable[[Sequence[str]], Floor]:
    """The floor of a shape such as ``("16x32", "24x4")``, measured once in this session."""
    try:
        floor_program.build()
    except floor_program.NoCompilerError as error:
        pytest.skip(f"the floor cannot be built: {error}")
    return lambda shape: floor_program.measure(tuple(shape))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """All figures of the session, group by group."""
    figures = config.stash[_FIGURES]
    if not figures:
        return
    terminalreporter.section("summary: medians")
    for group, members in groupby(figures, key=lambda figure: figure.group):
        terminalreporter.write_line("")
        terminalreporter.write_line(group, bold=True)
        for line in table([figure.cells() for figure in members]):
            terminalreporter.write_line("  " + line)
