"""The option --network."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import click
import pytest

from emu.commands.network_options import network_options
from emu.config.plan import NETWORKS


@click.command()
@network_options
def command(network: str) -> str:
    """Return it."""
    return network


def chosen(*arguments: str) -> object:
    return command.main(list(arguments), standalone_mode=False)


def test_loopback_is_the_default_and_each_network_can_be_chosen() -> None:
    assert chosen() == "loopback"
    assert [chosen("--network", name) for name in NETWORKS] == list(NETWORKS)


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="'internet' is not one of"):
        chosen("--network", "internet")
