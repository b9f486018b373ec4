"""Tests that belong together run in one worker."""

from __future__ import annotations

import pytest

from tests.scheduling import GROUPS, group_of

BLOCKS = "tests/docs/test_blocks.py::test_a_block_runs"


def test_the_blocks_of_a_document_are_a_group() -> None:
    """And each document has one of its own."""
    assert group_of(f"{BLOCKS}[docs/a.md:10]") == group_of(f"{BLOCKS}[docs/a.md:5]") == "docs/a.md"
    assert group_of(f"{BLOCKS}[README.md:5]") == "README.md"


def test_other_tests_are_alone() -> None:
    """Each has its own id."""
    name = "tests/emu/test_cli.py::test_x[a]"
    assert group_of(name) == name


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in GROUPS])
def test_every_pattern_names_tests_that_exist(pattern: str, pytestconfig: pytest.Config) -> None:
    """And tests of it: those that are renamed take their pattern along."""
    path, _, names = pattern.replace("\\", "").partition("::")
    text = (pytestconfig.rootpath / path).read_text()
    prefix, _, rest = names.partition("(")
    for alternative in rest.partition(")")[0].split("|") if rest[:1] not in ("", "?") else [""]:
        assert f"def {prefix.partition('[')[0].rstrip('.*')}{alternative}" in text
