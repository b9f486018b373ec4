"""The commands in the documents: each block that is marked is run as it stands there."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import ROOT, Block, DocumentError, blocks, documents, unmarked
from tests.docs.shell import SLOW_TIMEOUT, Shell

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _parameter(block: Block) -> object:
    marks = [pytest.mark.document]
    if block.needs:
        marks.append(pytest.mark.peer)
    if block.slow:
        marks += [pytest.mark.slow, pytest.mark.timeout(SLOW_TIMEOUT + 30)]
    if block.skip:
        marks.append(pytest.mark.skip(reason=block.skip))
    return pytest.param(block, id=block.name, marks=marks)


@pytest.fixture(scope="module")
def shells() -> Iterator[dict[Path, Shell]]:
    """One for each document."""
    made: dict[Path, Shell] = {}
    yield made
    for shell in made.values():
        shell.close()


@pytest.mark.parametrize(
    "block", [_parameter(block) for document in documents() for block in blocks(document)]
)
def test_a_block_runs(block: Block, shells: dict[Path, Shell]) -> None:
    """And ends as the document says."""
    for program in block.needs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    if block.document not in shells:
        shells[block.document] = Shell()
        for other in blocks(block.document):
            if other.file:  # its own test is deselected where only `slow` ones run
                shells[block.document].run(other)
    shells[block.document].run(block)


#: Recorded by `make peers`, which runs the command on the page.
_RECORDED = ROOT / "docs" / "conformance" / "results"


@pytest.mark.parametrize(
    "document",
    [path for path in documents() if _RECORDED not in path.parents],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_each_block_of_commands_is_marked(document: Path) -> None:
    """So it is run, or its comment has the reason why it is not."""
    assert unmarked(document) == []


EXAMPLE = """\
<!-- run background await=ready -->

    touch ready
    sleep 1000

Some text.

<!-- run file=program.py -->
```python
print("hello")
```

<!-- run status=3 -->
```sh
test -e ready
test "$(cat program.py)" = 'print("hello")'
exit 3
```

<!-- run needs=no-such-program skip="two machines" root -->

    never

```
<!-- run -->
```

    no command

    make one

<!-- run slow add="--part 1" -->

    emu one

    other
    emu two 'a
        b'

```sh
emu three
```
"""


def test_blocks_are_found_and_run_in_order(tmp_path: Path) -> None:
    """With what their comments say; a comment in code is none."""
    document = tmp_path / "document.md"
    document.write_text(EXAMPLE)
    first, program, second, third, fourth = blocks(document)
    assert (first.line, first.commands) == (1, "touch ready\nsleep 1000\n")
    assert (program.file, program.commands) == ("program.py", 'print("hello")\n')
    assert (second.line, second.status) == (13, 3)
    assert (third.needs, third.skip, third.in_root) == (("no-such-program",), "two machines", True)
    assert fourth.slow
    assert fourth.commands == "emu one --part 1\n\nother\nemu two 'a\n    b' --part 1\n"
    shell = Shell()
    try:
        shell.run(first)
        shell.run(program)
        shell.run(second)
        with pytest.raises(AssertionError, match="oh dear"):
            shell.run(Block(ROOT / "README.md", 1, "echo oh dear\nfalse\n"))
    finally:
        shell.close()
    assert not shell.path.exists()


def test_a_block_of_commands_without_a_comment_is_found(tmp_path: Path) -> None:
    """By its line; one that prints something only needs none."""
    document = tmp_path / "document.md"
    document.write_text(EXAMPLE)
    assert [document.read_text().splitlines()[line - 1] for line in unmarked(document)] == [
        "    no command",
        "```sh",
    ]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("<!-- run often -->\n\n    x\n", "unknown word 'often'"),
        ("<!-- run -->\n\ntext\n", "no block of code follows"),
        ("<!-- run -->\n```sh\nx\n", "the block has no end"),
        ("<!-- run status=x -->\n\n    x\n", "invalid literal"),
        ("<!-- run -->\n", "no block of code follows"),
    ],
)
def test_a_comment_that_is_wrong_is_named(tmp_path: Path, text: str, error: str) -> None:
    """With its line."""
    document = tmp_path / "document.md"
    document.write_text(text)
    with pytest.raises(DocumentError, match=f"document.md:1: {error}"):
        blocks(document)
