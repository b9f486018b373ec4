"""`emu report`: pages of saved results."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from tests.emu.report.page.samples import conformance, migrations, sweep_document
from tests.emu.tap.test_summary import PAIRS
from tests.emu.test_cli import emu

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("document", "title"),
    [
        (migrations(), "Live migration"),
        pytest.param(sweep_document(), "How the downtime grows", marks=pytest.mark.slow),
        pytest.param(conformance(), "Conformance of a vhost-user back-end", marks=pytest.mark.slow),
    ],
    ids=["migrate", "sweep", "conform"],
)
def test_a_saved_result_becomes_a_page(
    document: dict[str, object], title: str, tmp_path: Path
) -> None:
    """As if the command had had --report."""
    saved, made = tmp_path / "result.json", tmp_path / "page.html"
    saved.write_text(json.dumps(document, indent=1), "utf-8")
    done = emu("report", str(saved), "--report", str(made))
    assert done.returncode == 0, done.stderr
    assert f"<title>{title}" in made.read_text("utf-8")


def test_a_file_that_never_ends_is_not_read(tmp_path: Path) -> None:
    """A FIFO without a writer; as with all input files."""
    os.mkfifo(tmp_path / "fifo")
    done = emu("report", str(tmp_path / "fifo"), "--png", str(tmp_path / "x.png"))
    assert done.returncode == 1
    assert done.stderr.endswith("fifo: is not a regular file\n")


def test_the_result_is_not_overwritten(tmp_path: Path) -> None:
    """A page has its name by mistake, perhaps through a link."""
    saved, link = tmp_path / "result.json", tmp_path / "link"
    saved.write_text(json.dumps(migrations()), "utf-8")
    link.symlink_to(saved)
    for path in (saved, link):
        done = emu("report", str(saved), "--report", str(path))
        assert done.returncode == 2
        assert done.stderr == f"emu: --report {path}: this file has the result\n"
    assert json.loads(saved.read_text("utf-8"))["schema"]


def test_a_tap_s_log_becomes_a_picture(tmp_path: Path) -> None:
    """A line of JSON for each message."""
    from emu.tap import json_log

    log, made = tmp_path / "tap.log", tmp_path / "tap.png"
    log.write_text(json_log.head(PAIRS) + "\n", "utf-8")
    done = emu("report", str(log), "--png", str(made))
    assert done.returncode == 0, done.stderr
    assert made.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("contents", "options", "status", "why"),
    [
        ("{}", ("--png", "x.png"), 1, "not a result of emu migrate, emu sweep or emu conform"),
        ("{", ("--png", "x.png"), 1, "it is not JSON: Expecting property name"),
        ('{"event":"tap"}', ("--png", "x.png"), 1, "line 1: pairs is missing"),
        (None, ("--png", "x.png"), 1, "No such file or directory"),
        ("{}", (), 2, "give --report FILE or --png FILE"),
    ],
)
def test_whatever_else_is_one_line(
    contents: str | None, options: tuple[str, ...], status: int, why: str, tmp_path: Path
) -> None:
    """It names the file."""
    saved = tmp_path / "result.json"
    if contents is not None:
        saved.write_text(contents, "utf-8")
    options = tuple(str(tmp_path / word) if word == "x.png" else word for word in options)
    done = emu("report", str(saved), *options)
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert why in line
    assert not (tmp_path / "x.png").exists()
