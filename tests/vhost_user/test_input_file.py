"""Files that a user names, to be read."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from vhost_user import input_file

if TYPE_CHECKING:
    from pathlib import Path


def test_a_file_of_the_largest_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"123")
    assert input_file.read(path, 3) == b"123"
    with pytest.raises(OSError, match="has more than 2 bytes"):
        input_file.read(path, 2)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("none", "No such file or directory"),
        ("fifo", "is not a regular file"),
        (".", "is not a regular file"),
        ("/dev/zero", "is not a regular file"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_read(name: str, reason: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match=re.escape(reason)) as caught:
        input_file.read(tmp_path / name, 3)
    assert caught.value.filename in (str(tmp_path / name), tmp_path / name)
