"""The options that every back-end program takes."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from backends.control import ControlOptions
from backends.options import (
    FilePath,
    PathText,
    Settings,
    backend_options,
    option_group,
    settings_from,
)
from backends.pacing import InjectedLatency
from backends.stop_policy import StopKind, StopPolicy


def parsed(*arguments: str) -> Settings:
    got: list[Settings] = []

    @click.command()
    @backend_options
    def command(**options: Any) -> None:
        got.append(settings_from(options))
        assert options == {}, "all of them are taken"

    command.main(list(arguments), standalone_mode=False)
    return got[0]


def test_defaults() -> None:
    assert parsed("--fd", "3") == Settings((), 3, ControlOptions(), None, None)


def test_all_of_them() -> None:
    settings = parsed(
        *("--socket-path", "a", "--socket-path", "b", "--control", "shared"),
        *("--stop-policy", "drain", "--stop-time", "20ms"),
        *("--cost-get-vring-base", "3us", "--cost-set-mem-table", "1.5s"),
        *("--stats-file", "s", "--ready-fd", "4"),
    )
    policy = StopPolicy(StopKind.DRAIN, 20_000_000)
    control = ControlOptions(policy, InjectedLatency(3_000, 1_500_000_000), shared=True)
    assert settings == Settings(("a", "b"), None, control, "s", 4)
    assert settings.devices == 2


@pytest.mark.parametrize(
    ("arguments", "devices", "each"),
    [(("--fd", "3"), 1, "--fd"), (("--socket-path", "a"), 1, "each --socket-path")],
)
def test_what_a_device_is_called(arguments: tuple[str, ...], devices: int, each: str) -> None:
    settings = parsed(*arguments)
    assert (settings.devices, settings.each) == (devices, each)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "either"),
        (("--fd", "3", "--socket-path", "a"), "either"),
        (("--socket-path", "a", "--socket-path", "a"), "of its own"),
        (("--fd", "3", "--stop-time", "20"), "not a duration"),
    ],
)
def test_bad_input(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(click.ClickException, match=message):
        parsed(*arguments)


def test_a_group_keeps_its_order() -> None:
    @click.command()
    @option_group(click.option("--first"), click.option("--second"))
    def command() -> None:
        """A command."""

    text = CliRunner().invoke(command, ["--help"]).output
    assert text.index("--first") < text.index("--second")


def test_a_path_is_one_unless_it_is_empty() -> None:
    assert FilePath().convert(".", None, None) == Path()
    assert PathText().convert("./a.sock", None, None) == "./a.sock"
    for kind in (FilePath(), PathText()):
        with pytest.raises(click.BadParameter, match="the path is empty"):
            kind.convert("", None, None)
