"""No exception of ours ends a command in a traceback: it is printed as one line, or handled.

What a command prints is a subclass of one of `PRINTED`. Each other class has the modules that
handle it in `HANDLED`, and these do have an ``except`` clause for it.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
from pathlib import Path

import click
import pytest

from backends.console_script import OutputError
from emu.errors import EmuError
from vhost_user.errors import VhostUserError
from vhost_user_conformance.errors import ConformanceError

ROOT = Path(__file__).parents[1]
PACKAGES = ("emu", "devices", "backends", "vhost_user", "vhost_user_conformance")
#: `backends.console_script.run`, `emu.cli` and click print them, `emu conform` the suite's.
PRINTED = (EmuError, VhostUserError, ConformanceError, OSError, OutputError, click.ClickException)
#: Modules that handle all other exceptions which may reach them, by class.
HANDLED = {
    "backends.blk_device.RequestError": ("backends.blk_device",),
    "backends.durations.DurationError": ("backends.options", "emu.commands.validate"),
    "backends.image.ImageError": ("backends.program", "backends.blk_device"),
    "backends.plugin.PluginError": ("backends.serve",),
    "backends.rng_device.SourceError": ("backends.rng",),
    "backends.sandbox.SandboxError": ("backends.program",),
    "backends.server.ServerError": ("backends.program", "emu.orchestrator.network.builder"),
    "emu.commands.conform._Interrupted": ("emu.commands.conform",),
    "emu.conformance.parts.PartError": ("emu.conformance.peer_verdicts",),
    "emu.json_input.JsonInputError": (
        "emu.config.vm_file",
        "emu.migration.handover",
        "emu.migration.handshake",
        "emu.qmp.client",
        "emu.qmp.protocol",
        "emu.qmp.server",
        "emu.vm_process.arguments",
    ),
    "emu.report.comparison.DocumentError": ("emu.commands.compare",),
    "emu.report.gates.GateError": ("emu.commands.fail_if_option",),
    "emu.orchestrator.network.builder.BuildError": ("emu.orchestrator.network.builder",),
    "emu.strategies.socket_worker.Disconnected": ("emu.strategies.socket_worker",),
    "emu.strategies.socket_worker.TimedOut": ("emu.strategies.socket_worker",),
    "emu.tap.forwarding.DescriptorsLostError": ("emu.tap.relay",),
    "vhost_user.mapping.MappingError": (
        "backends.stats",
        "vhost_user.dirty_log",
        "vhost_user.inflight",
        "vhost_user.memory",
        "vhost_user_conformance.back_end.inflight_region",
        "vhost_user_conformance.front_end.descriptors",
    ),
    "vhost_user.payload_layout.PayloadError": (
        "emu.tap.session",
        "vhost_user.backend_session",
        "vhost_user.codec",
        "vhost_user.frontend_session",
        "vhost_user_conformance.peer.message_text",
    ),
    "vhost_user.plugin_file.PluginFileError": ("backends.plugin", "emu.strategies.registry"),
    "vhost_user.postcopy.PagesMissing": ("backends.net_device", "backends.ring"),
    "vhost_user_conformance.model.verdict.CaseEnd": (
        "vhost_user_conformance.back_end.runner",
        "vhost_user_conformance.front_end.runner",
    ),
    "vhost_user_conformance.peer.wire.WireError": (
        "vhost_user_conformance.back_end.runner",
        "vhost_user_conformance.front_end.session",
    ),
}
#: The suite's own tables are wrong: raised while they are imported, and by no input.
OF_TABLES = {
    "vhost_user_conformance.model.catalogue.CatalogueError",
    "vhost_user_conformance.rules.rule.RuleError",
}


def classes() -> dict[str, type[BaseException]]:
    """All exceptions that our packages define, by their full names."""
    found: dict[str, type[BaseException]] = {}
    for package in map(importlib.import_module, PACKAGES):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if info.name.endswith("__main__") or info.name.endswith("_build"):
                continue  # importing these runs them
            module = importlib.import_module(info.name)
            for name, value in vars(module).items():
                ours = inspect.isclass(value) and value.__module__ == info.name
                if ours and issubclass(value, BaseException):
                    found[f"{info.name}.{name}"] = value
    return found


CLASSES = classes()


def full_name(value: type[BaseException]) -> str:
    """As `CLASSES` has it."""
    return f"{value.__module__}.{value.__name__}"


def caught_in(module: str) -> set[str]:
    """The names in the ``except`` clauses of a module, without those of their modules."""
    source = (ROOT / module.replace(".", "/")).with_suffix(".py").read_text()
    caught: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is not None:
            for part in ast.walk(node.type):
                if isinstance(part, ast.Attribute):
                    caught.add(part.attr)
                elif isinstance(part, ast.Name):
                    caught.add(part.id)
    return caught


@pytest.mark.parametrize("name", CLASSES)
def test_an_exception_is_printed_or_handled(name: str) -> None:
    """A new class is a subclass of one that commands print, or names who handles it."""
    value = CLASSES[name]
    if issubclass(value, PRINTED):
        assert name not in HANDLED, "the commands print it anyway"
        return
    bases = {full_name(base) for base in value.__mro__}
    assert bases & (HANDLED.keys() | OF_TABLES), f"a command that raises {name} ends in a traceback"


@pytest.mark.parametrize("name", HANDLED)
def test_a_handler_is_there(name: str) -> None:
    """In each module that the table names for it."""
    assert name in CLASSES
    lacking = [each for each in HANDLED[name] if name.rpartition(".")[2] not in caught_in(each)]
    assert not lacking


def test_no_class_is_listed_that_does_not_exist() -> None:
    """Nor is one of the tables' own."""
    assert CLASSES.keys() >= HANDLED.keys() | OF_TABLES
