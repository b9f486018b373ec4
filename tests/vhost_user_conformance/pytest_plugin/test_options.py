"""The plugin's options: their names, and their text in pytest's help."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from click.testing import CliRunner

from emu.commands.conform import conform
from tests.vhost_user_conformance.pytest_plugin.sessions import run
from vhost_user_conformance.model.device_class import one_of
from vhost_user_conformance.pytest_plugin.options import PREFIX

if TYPE_CHECKING:
    import pytest

pytest_plugins = ("pytester",)


def test_each_option_has_the_prefix_and_is_one_of_the_command(pytester: pytest.Pytester) -> None:
    """`emu conform` has the same names; the role is its subcommand."""
    text = run(pytester, "--help").stdout.str()
    names = set(re.findall(rf"{PREFIX}([\w-]+)", text))
    command = CliRunner().invoke(conform, ["back-end", "--help"]).output
    command += CliRunner().invoke(conform, ["front-end", "--help"]).output
    assert names == {
        *("socket", "exec", "device", "role", "dialect", "patience", "scratch", "only"),
        *("destination", "known", "shard"),
    }
    assert {name for name in names if f"--{name}" not in command} == {"role"}
    assert one_of() in " ".join(text.split())
