"""An extension is used if it is of the sources that are there."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vhost_user import extension, native

SOURCES = Path(native.__file__).with_name("native")


@pytest.mark.skipif(not native.available, reason="the extension was not built")
def test_other_sources_are_noticed(tmp_path: Path) -> None:
    folder = shutil.copytree(SOURCES, tmp_path / "native")
    extension.check(native.lib, "vhost_user._native", folder)
    with (folder / "notify.c").open("a") as file:
        file.write("\n")
    with pytest.raises(ImportError, match=r"vhost_user\._native was built of other sources: run"):
        extension.check(native.lib, "vhost_user._native", folder)


def test_an_extension_without_a_checksum_is_older() -> None:
    with pytest.raises(ImportError, match="was built of other sources"):
        extension.check(object(), "vhost_user._native", SOURCES)


def test_without_sources_there_is_nothing_to_compare(tmp_path: Path) -> None:
    extension.check(None, "vhost_user._native", tmp_path)


@pytest.mark.skipif(not native.available, reason="the extension was not built")
def test_a_program_says_so_and_works_without_it(tmp_path: Path) -> None:
    package = shutil.copytree(
        SOURCES.parent, tmp_path / "vhost_user", ignore=shutil.ignore_patterns("__pycache__")
    )
    (package / "native" / "native.h").write_text("/* newer */")
    text = "from vhost_user import native, eventfd; print(native.available, eventfd.default())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", text],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("False <vhost_user.eventfd.PythonEventfds")
    assert done.stderr.count("was built of other sources: run `pip install -e .` again") == 1
