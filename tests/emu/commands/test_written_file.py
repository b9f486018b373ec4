"""Files that options name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.commands import written_file
from emu.errors import EmuError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("contents", ["text", b"bytes"])
def test_a_file_is_written(contents: str | bytes, tmp_path: Path) -> None:
    """Whole, in place of the one before."""
    path = tmp_path / "file"
    path.write_text("something that is longer")
    written_file.write("--option", path, contents)
    assert path.read_bytes() == (contents if isinstance(contents, bytes) else contents.encode())


def test_an_error_names_the_option_and_the_file(tmp_path: Path) -> None:
    """And the reason."""
    path = tmp_path / "none" / "file"
    with pytest.raises(EmuError, match=f"^--option {path}: No such file or directory$"):
        written_file.write("--option", path, "text")
