"""Classes from a Python file: which are found, and the reason when the file cannot be run."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

import pytest

from vhost_user.plugin_file import PluginFileError, classes_of

if TYPE_CHECKING:
    from pathlib import Path

#: `dataclass` with annotations as strings looks the module up in `sys.modules`.
TEXT = """
from __future__ import annotations
from collections import OrderedDict
from dataclasses import KW_ONLY, dataclass

class First(dict):
    pass

@dataclass
class Other:
    _: KW_ONLY
    size: int

class Second(First):
    pass

Alias = First
instance = First()
"""


def test_each_subclass_that_a_file_defines_is_found_once_in_order(tmp_path: Path) -> None:
    """Neither one that it imports, nor a class of another base, nor an instance."""
    path = tmp_path / "classes.py"
    path.write_text(TEXT)
    for given in (path, str(path)):
        assert [found.__name__ for found in classes_of(given, dict)] == ["First", "Second"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError: invalid syntax"),
        ("import nowhere_to_be_found", "ModuleNotFoundError: No module named 'nowhere"),
        ("raise OSError('the disk is full')", "OSError: the disk is full"),
    ],
)
def test_the_reason_that_a_file_cannot_be_run(tmp_path: Path, text: str, reason: str) -> None:
    """No half-made module stays behind."""
    path = tmp_path / "broken_plugin.py"
    path.write_text(text)
    with pytest.raises(PluginFileError, match=f"^{re.escape(reason)}"):
        classes_of(path, dict)
    assert "vhost_emu_plugin_broken_plugin" not in sys.modules


@pytest.mark.parametrize("name", ["missing.py", "text.txt", "folder.py", "."])
def test_what_is_not_a_python_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "folder.py").mkdir()
    with pytest.raises(PluginFileError, match=r"^it is not a Python file$"):
        classes_of(tmp_path / name, dict)
