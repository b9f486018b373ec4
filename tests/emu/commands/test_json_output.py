"""The option `--json`, and writing documents."""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from emu.commands import validate
from emu.commands.json_output import deliver, json_option, report_stream
from emu.errors import EmuError


@click.command()
@json_option("it")
@click.option("--list", "listed", is_flag=True)
def command(json_file: Path | None, *, listed: bool) -> None:
    """Write the document."""
    deliver(json_file, {"listed": listed})


@pytest.mark.parametrize("arguments", [("--json",), ("--json", "-"), ("--json=-",)])
def test_without_a_file_it_is_stdout(arguments: tuple[str, ...]) -> None:
    """Before and after another option."""
    for order in ((*arguments, "--list"), ("--list", *arguments)):
        result = CliRunner().invoke(command, order)
        assert (result.exit_code, json.loads(result.stdout)) == (0, {"listed": True})


def test_a_file(tmp_path: Path) -> None:
    """Stdout is empty."""
    path = tmp_path / "out.json"
    result = CliRunner().invoke(command, ("--json", str(path)))
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(path.read_text()) == {"listed": False}


def test_without_the_option_there_is_no_document() -> None:
    """Stdout is empty."""
    assert CliRunner().invoke(command).stdout == ""


def test_with_the_document_on_stdout_the_report_is_on_stderr() -> None:
    """So a program that reads stdout parses the document alone."""
    assert report_stream(Path("-")) is sys.stderr
    assert report_stream(Path("out.json")) is sys.stdout
    assert report_stream(None) is sys.stdout


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """No temporary file is left in the directory."""
    path = tmp_path / "out.json"
    path.write_text("old")
    deliver(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """No part of the document is written."""
    path = tmp_path / "out.json"
    path.write_text("old")
    broken: dict[str, Any] = {"a": object()}
    with pytest.raises(TypeError):
        deliver(path, broken)
    assert path.read_text() == "old"


def test_an_unwritable_path_is_an_error(tmp_path: Path) -> None:
    """Of one line with the path."""
    with pytest.raises(EmuError, match=r"--json .*none/out.json: No such file or directory"):
        deliver(tmp_path / "none" / "out.json", {})


def test_a_fifo_receives_the_document(tmp_path: Path) -> None:
    """As with ``--json >(jq .)``; it stays a FIFO."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    validate.output_file("--json", fifo)
    with ThreadPoolExecutor() as pool:
        text = pool.submit(fifo.read_text)
        deliver(fifo, {"a": 1})
        assert json.loads(text.result()) == {"a": 1}
    assert fifo.is_fifo()


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_every_name_of_stdout_is_stdout(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The report is printed on stderr."""
    validate.output_file("--json", Path(name), takes_stdout=True)
    assert report_stream(Path(name)) is sys.stderr
    deliver(Path(name), {"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_a_full_device_is_one_line() -> None:
    """With the reason and the path."""
    validate.output_file("--json", Path("/dev/full"))
    with pytest.raises(EmuError, match="--json /dev/full: No space left on device"):
        deliver(Path("/dev/full"), {"a": 1})
