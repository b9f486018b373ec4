"""The options ``--scheduler`` and ``--workers``."""

from __future__ import annotations

import click
import pytest

from backends.options import option_group
from emu.commands.scheduler_options import scheduler_options


@pytest.mark.parametrize("default", [None, "local"])
def test_the_default_is_the_commands_own(default: str | None) -> None:
    """A command that needs a scheduler shows it."""

    @click.command()
    @option_group(*scheduler_options("do the work", default))
    def command(**_options: object) -> None:
        """Nothing."""

    context = command.make_context("command", [])
    assert context.params == {"scheduler": default, "workers": None}
    text = " ".join(command.get_help(context).split())
    assert "Let workers of dask.distributed do the work" in text
    assert ("[default: local]" in text) == (default is not None)
