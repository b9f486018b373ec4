"""Strategies by name, and those of plug-ins."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import io
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from emu.commands.migrate import migrate
from emu.config.plan import MigrationPlan
from emu.errors import PluginError
from emu.orchestrator.migrate_local import MigrationSeries
from emu.orchestrator.supervisor import Supervisor
from emu.report.progress import LineProgress
from emu.strategies import registry
from emu.strategies.base import Strategy, StrategyOptions
from emu.strategies.split import Split
from emu.strategies.unsafe import MODES, UnsafeThreads
from tests.emu.fake_runs import machine_plan, no_leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).parents[3] / "docs" / "explanation"
EXAMPLES = re.findall(
    r"```python\n# (\w+\.py)\n(.*?)```", (DOCS / "strategies.md").read_text(), re.S
)


@pytest.fixture(autouse=True)
def only_built_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Strategies that a test adds are removed after it."""
    monkeypatch.setattr(registry, "STRATEGIES", dict(registry.STRATEGIES))
    registry.load_file.cache_clear()
    registry.load_installed.cache_clear()
    yield
    registry.load_file.cache_clear()
    registry.load_installed.cache_clear()


def plugin(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(text)
    return path


@pytest.mark.parametrize("strategy", registry.BUILT_IN)
def test_each_strategy_describes_itself(strategy: type[Strategy]) -> None:
    assert registry.find(strategy.NAME) is strategy
    assert type(registry.make(strategy.NAME)) is strategy
    assert all((strategy.HELP, strategy.ASK, strategy.CHANGE, strategy.ORIGIN))
    output = CliRunner().invoke(migrate, ["--help"]).output
    assert f"{strategy.NAME} {strategy.HELP}" in " ".join(output.split())


@pytest.mark.parametrize("mode", MODES)
def test_unsafe_is_the_first_attempt_of_threads(mode: str) -> None:
    assert isinstance(registry.make("threads", StrategyOptions(unsafe=mode)), UnsafeThreads)
    assert type(registry.make("split", StrategyOptions(unsafe=mode))) is Split


@pytest.mark.slow
def test_the_documents_examples_migrate_a_vm(tmp_path: Path) -> None:
    """Both processes of the VM import them."""
    paths = []
    for name, text in EXAMPLES:
        paths.append(tmp_path / name)
        paths[-1].write_text(text)
        registry.load_file(paths[-1])
    names = [
        name for name in registry.STRATEGIES if registry.STRATEGIES[name] not in registry.BUILT_IN
    ]
    assert names == ["by-class", "one-by-one"]
    plan = MigrationPlan(machine_plan(plugins=tuple(paths)), tuple(names), repeat=2)
    out = io.StringIO()
    with no_leftovers() as pids, Supervisor(plan.machine, LineProgress(out)) as supervisor:
        report = MigrationSeries(plan, supervisor).run()
        pids.extend(pid for side in supervisor.sides for pid in side.pids)
    assert report.ok, report.failure()
    assert [run.strategy for run in report.runs] == names * 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "defines no strategy"),
        ("from emu.strategies.split import Split", "defines no strategy"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named"),
        ("class {", "SyntaxError"),
        ("raise OSError('the disk is full')", "OSError: the disk is full"),
        (
            "from emu.strategies.split import Split\nclass A(Split):\n    NAME = 'split'",
            "there is another strategy 'split'",
        ),
        (
            "from emu.strategies.split import Split\nclass A(Split):\n    NAME = ''",
            "needs NAME (one word) and HELP",
        ),
        (
            "from emu.strategies.split import Split\nclass A(Split):\n    NAME = 'a,b'",
            "needs NAME (one word) and HELP",
        ),
        (
            "from emu.strategies.base import Strategy\nclass A(Strategy):\n    NAME = HELP = 'a'",
            "defines no strategy",
        ),
    ],
)
def test_the_error_of_an_unusable_plugin_is_one_line(
    tmp_path: Path, text: str, reason: str
) -> None:
    path = plugin(tmp_path, text)
    with pytest.raises(PluginError) as caught:
        registry.load_file(path)
    assert str(caught.value).startswith(f"--plugin {path}: ")
    assert reason in str(caught.value)
    assert list(registry.STRATEGIES) == [strategy.NAME for strategy in registry.BUILT_IN]


@pytest.mark.parametrize("name", ["missing.py", "plugin.txt", "."])
def test_the_error_of_a_missing_or_wrong_file_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / "plugin.txt").write_text("")
    with pytest.raises(PluginError, match=r"^--plugin [^\n]*$"):
        registry.load_file(tmp_path / name)


def test_an_installed_strategy_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Installed(Split):
        NAME = "installed"
        HELP = "of another distribution"

    point = SimpleNamespace(name="installed", load=lambda: Installed)
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])
    assert registry.find("installed") is Installed
    assert registry.help_lines().endswith("installed   of another distribution")


def test_an_installed_strategy_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def load() -> type[Strategy]:
        raise ImportError("no such module")

    point = SimpleNamespace(name="broken", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda *, group: [point])
    assert registry.find("split") is Split
    with pytest.raises(
        PluginError, match=r"entry point broken of vhost_emu.strategies: ImportError"
    ):
        registry.find("broken")
