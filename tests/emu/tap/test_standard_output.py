"""Standard output of a tap, which waits for no reader."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import io
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

import click

from emu.report import log_file
from emu.tap.standard_output import StandardOutput, without_waiting

if TYPE_CHECKING:
    import pytest


def test_text_comes_out_in_order_and_encoded() -> None:
    read, write = os.pipe()
    with os.fdopen(write, "w", encoding="ascii", errors="backslashreplace") as stream:
        output = StandardOutput(stream)
        assert (output.isatty(), output.writable()) == (False, True)
        assert (output.fileno(), output.encoding, output.errors) == (
            *(write, "ascii", "backslashreplace"),
        )
        for text in ("", "a", "\u00e9", "", "\n"):
            print(text, end="", file=output, flush=True)
        output.close()
        output.close()
    with os.fdopen(read, "rb") as reader:
        assert reader.read() == b"a\\xe9\n"


def test_nobody_has_to_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stream has no room for is dropped."""
    monkeypatch.setattr(log_file, "_PATIENCE", 0.1)
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        output = StandardOutput(stream)
        for _ in range(1000):
            print("x" * 1000, file=output)
        output.close()
        os.close(read)


def test_the_streams_of_the_process_are_replaced_in_the_block() -> None:
    """One without a descriptor, as in some tests, stays."""
    read, write = os.pipe()
    text = io.StringIO()
    with os.fdopen(write, "w") as stream, redirect_stdout(stream), redirect_stderr(text):
        with without_waiting():
            assert sys.stdout is not stream
            assert sys.stderr is text
            sys.stdout.write("a\n")
        assert sys.stdout is stream
    with os.fdopen(read) as reader:
        assert reader.read() == "a\n"


def test_click_takes_it_for_a_stream_of_text() -> None:
    """It finds that out by writing bytes, and then text, of length 0."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as stream:
        output = StandardOutput(stream)
        with redirect_stderr(output):
            click.echo("a", err=True)
        assert os.read(read, 10) == b"a\n"
        output.close()
    os.close(read)
