"""The strategies by name: those of this package, and those of plug-ins.

A strategy is one class in one file (`emu.strategies.base.Strategy`). One of this package has a row
in `BUILT_IN`; one of another distribution is an entry point of the group ``vhost_emu.strategies``;
``emu migrate --plugin FILE`` loads one from a file. docs/explanation/strategies.md describes all
three.
"""

from __future__ import annotations

import inspect
import textwrap
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from emu.errors import PluginError
from emu.strategies.base import Strategy, StrategyOptions
from emu.strategies.handover import Handover
from emu.strategies.prewired import Prewired
from emu.strategies.processes import Processes
from emu.strategies.qemu import Qemu2021, QemuNow
from emu.strategies.split import Split
from emu.strategies.threads import Threads
from emu.strategies.unsafe import UnsafeThreads
from vhost_user.plugin_file import PluginFileError, classes_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["DEFAULT_COMPARED", "STRATEGIES", "Strategy", "StrategyOptions", "find", "make"]

GROUP = "vhost_emu.strategies"
BUILT_IN: tuple[type[Strategy], ...] = (
    Qemu2021,
    QemuNow,
    Threads,
    Processes,
    Split,
    Prewired,
    Handover,
)
#: All known strategies; `load_installed` and `load_file` add to it.
STRATEGIES: dict[str, type[Strategy]] = {strategy.NAME: strategy for strategy in BUILT_IN}
DEFAULT_COMPARED = (Qemu2021.NAME, Threads.NAME, Prewired.NAME)


def find(name: str) -> type[Strategy]:
    """The strategy of that name.

    Raises:
        ValueError: it is unknown; the text lists the known ones.
        PluginError: an installed one cannot be loaded.
    """
    if name not in STRATEGIES:
        load_installed()
    try:
        return STRATEGIES[name]
    except KeyError:
        known = ", ".join(STRATEGIES)
        raise ValueError(f"unknown strategy {name!r}: use one of {known}") from None


def make(name: str, options: StrategyOptions | None = None) -> Strategy:
    """A strategy for one migration.

    Raises:
        ValueError: the name is unknown, or an option is invalid.
        PluginError: an installed one cannot be loaded.
    """
    strategy, options = find(name), options or StrategyOptions()
    options.check()
    if strategy is Threads and options.unsafe:
        return UnsafeThreads.from_options(options)
    return strategy.from_options(options)


def register(strategy: type[Strategy], origin: str) -> None:
    """Add a strategy.

    Args:
        strategy: the class.
        origin: the plug-in that defines it, for errors.

    Raises:
        PluginError: it is not a strategy, or there is another strategy of its name.
    """
    if not (isinstance(strategy, type) and issubclass(strategy, Strategy)):
        raise PluginError(f"{origin}: {strategy!r} is not a subclass of Strategy")
    if inspect.isabstract(strategy):
        raise PluginError(f"{origin}: {strategy.__name__} has no drive()")
    if not strategy.NAME or not strategy.HELP or set(strategy.NAME) & set(", \t\n"):
        raise PluginError(f"{origin}: {strategy.__name__} needs NAME (one word) and HELP")
    if STRATEGIES.setdefault(strategy.NAME, strategy) is not strategy:
        raise PluginError(f"{origin}: there is another strategy {strategy.NAME!r}")


@cache
def load_installed() -> None:
    """Add the strategies of installed distributions; once per process.

    Raises:
        PluginError: one cannot be loaded.
    """
    for point in entry_points(group=GROUP):
        origin = f"entry point {point.name} of {GROUP}"
        try:
            strategy = point.load()
        except Exception as error:
            raise PluginError(f"{origin}: {type(error).__name__}: {error}") from error
        register(strategy, origin)


@cache
def load_file(path: Path) -> None:
    """Add the strategies that a Python file defines; once per path.

    Raises:
        PluginError: it cannot be run, or defines none.
    """
    origin = f"--plugin {path}"
    try:
        # mypy would have a concrete class for a type[T] (python/mypy#4717).
        defined = classes_of(path, Strategy)  # type: ignore[type-abstract]
    except PluginFileError as error:
        raise PluginError(f"{origin}: {error}") from error
    found = [strategy for strategy in defined if not inspect.isabstract(strategy)]
    if not found:
        raise PluginError(f"{origin}: it defines no strategy, a subclass of Strategy with drive()")
    for strategy in found:
        register(strategy, origin)


def help_lines() -> str:
    """The name of each strategy and its `Strategy.HELP`, for a terminal of 80 columns."""
    return "\n".join(
        textwrap.fill(
            strategy.HELP,
            width=76,
            initial_indent=f"  {name:<11} ",
            subsequent_indent=" " * 14,
        )
        for name, strategy in STRATEGIES.items()
    )


def table() -> str:
    """The table of docs/explanation/strategies.md."""
    rows = ["| strategy | Ask | Change | from |", "|---|---|---|---|"]
    rows += [f"| `{s.NAME}` | {s.ASK} | {s.CHANGE} | {s.ORIGIN} |" for s in BUILT_IN]
    return "\n".join(rows)
