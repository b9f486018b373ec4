"""The commands in the documents: each block that is marked is run as it stands there."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.docs.documents import ROOT, Block, DocumentError, blocks, documents
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shell:
    """Runs the blocks of one document, in a directory of its own."""

    def __init__(self) -> None:
        # Sockets are made in it, whose paths must be short.
        self._directory = tempfile.TemporaryDirectory(prefix="docs-")
        self.path = Path(self._directory.name)
        self._background: list[subprocess.Popen[str]] = []

    def run(self, block: Block) -> None:
        """Run a block, or write its file; raises AssertionError with all that it wrote."""
        if block.file:
            (self.path / block.file).write_text(block.commands)
            return
        log = self.path / f".log-{block.line}"
        with log.open("w") as out:
            process = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", block.commands],
                cwd=ROOT if block.in_root else self.path,
                env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                text=True,
                start_new_session=True,
            )
        self._background.append(process)
        if block.awaits:
            self._await(block, process, log)
        if not block.background:
            status = process.wait(PROGRAM_TIMEOUT)
            assert status == block.status, f"{block.name}: {status}\n{log.read_text()}"

    def _await(self, block: Block, process: subprocess.Popen[str], log: Path) -> None:
        end = time.monotonic() + TIMEOUT
        while not (self.path / block.awaits).exists():
            assert process.poll() is None, f"{block.name}: it ended\n{log.read_text()}"
            assert time.monotonic() < end, f"{block.name}: no {block.awaits}\n{log.read_text()}"
            time.sleep(0.02)  # a name that appears in a directory has no event

    def close(self) -> None:
        """End what goes on in the background."""
        for process in reversed(self._background):
            for signum in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(process.pid, signum)
                    process.wait(TIMEOUT / 4)
                except ProcessLookupError:
                    break
                except subprocess.TimeoutExpired:
                    continue
            process.wait(TIMEOUT)
        self._directory.cleanup()


def _parameter(block: Block) -> object:
    marks = []
    if block.needs:
        marks.append(pytest.mark.peer)
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
    shells[block.document].run(block)


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
"""


def test_blocks_are_found_and_run_in_order(tmp_path: Path) -> None:
    """With what their comments say; a comment in code is none."""
    document = tmp_path / "document.md"
    document.write_text(EXAMPLE)
    first, program, second, third = blocks(document)
    assert (first.line, first.commands) == (1, "touch ready\nsleep 1000\n")
    assert (program.file, program.commands) == ("program.py", 'print("hello")\n')
    assert (second.line, second.status) == (13, 3)
    assert (third.needs, third.skip, third.in_root) == (("no-such-program",), "two machines", True)
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
