"""Reads the Markdown documents of the repository: links, anchors, and blocks of commands.

A block of commands that can be run has a comment before it::

    <!-- run -->

    ```sh
    emu doctor
    ```

The comment takes these words, in any order:

``status=N``        the exit status that the block has; 0 by default
``background``      the block goes on until the document's last block has run
``await=PATH``      wait until that file is there, before the next block
``needs=PROGRAM``   another program; where it is not installed, the block is skipped. The test has
                    the mark ``peer``
``slow``            it takes long: the test has the mark ``slow``
``skip="REASON"``   the block is not run, for this reason
``add=OPTIONS``     the test adds these options to each command `emu` of the block, so that it runs
                    a part of what the command does for a user, such as a shard of all cases
``root``            run in the repository, not in a directory of the document's own
``file=PATH``       the block is not run but written to this file, for the blocks after it

The blocks of a document run in order, in one temporary directory.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
#: The first words of commands.
_COMMAND = re.compile(
    r"(emu|vhost-emu-\w+|make|pytest|pip|python|mkdir|truncate|kill|openssl|qemu-system-\w+|\. |"
    r"\.venv/bin/[\w-]+)( |$)"
)
#: What is installed or made, and no document of ours.
_NOT_OURS = {".venv", "build", "node_modules", ".git"}
_FENCE = re.compile(r"^ {0,3}(```+|~~~+)")
_HEADING = re.compile(r"^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$")
_COMMENT = re.compile(r"^\s*<!--\s*run\b(.*?)-->\s*$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\[\]]*\])*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)")
_ID = re.compile(r"<a\s+(?:id|name)=\"([^\"]+)\"")


class DocumentError(ValueError):
    """A document cannot be read; the text has its name and line."""


def documents() -> list[Path]:
    """All of the repository."""
    found = (path for path in ROOT.rglob("*.md") if not _NOT_OURS & set(path.parts))
    return sorted(path for path in found if ".egg-info" not in str(path))


@dataclass(frozen=True, slots=True)
class Block:
    """Commands that can be run.

    Attributes:
        document: where they are.
        line: of their comment, from 1.
    """

    document: Path
    line: int
    commands: str
    status: int = 0
    background: bool = False
    awaits: str = ""
    needs: tuple[str, ...] = ()
    slow: bool = False
    skip: str = ""
    in_root: bool = False
    file: str = ""
    add: str = ""

    @property
    def name(self) -> str:
        """``docs/README.md:12``."""
        own = self.document.is_relative_to(ROOT)
        return f"{self.document.relative_to(ROOT) if own else self.document}:{self.line}"


def _added(commands: str, options: str) -> str:
    """The commands, with the options at the end of each `emu`, which may take several lines."""
    found, command = [], ""
    for line in commands.splitlines():
        command += line
        try:
            words = shlex.split(command, comments=True)
        except ValueError:  # a quote is open
            command += "\n"
            continue
        found.append(f"{command} {options}" if words[:1] == ["emu"] else command)
        command = ""
    return "\n".join(found) + "\n"


def _with(block: Block, word: str) -> Block:
    """The block as one word of its comment has it; ValueError for an unknown word."""
    name, _, value = word.partition("=")
    match name:
        case "status":
            return replace(block, status=int(value))
        case "background":
            return replace(block, background=True)
        case "await" if value:
            return replace(block, awaits=value)
        case "needs" if value:
            return replace(block, needs=(*block.needs, value))
        case "slow":
            return replace(block, slow=True)
        case "skip" if value:
            return replace(block, skip=value)
        case "add" if value:
            return replace(block, add=value)
        case "root":
            return replace(block, in_root=True)
        case "file" if value:
            return replace(block, file=value)
    raise ValueError(f"unknown word {word!r}")


def blocks(document: Path) -> list[Block]:
    """The blocks of a document that can be run, in order.

    Raises:
        DocumentError: a comment that is wrong, or that no block follows.
    """
    lines = document.read_text().splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        comment = _COMMENT.match(line)
        if comment is None or _in_code(lines, number - 1):
            continue
        try:
            block = Block(document, number, _code_after(lines, number))
            for word in shlex.split(comment[1]):
                block = _with(block, word)
            if block.add:
                block = replace(block, commands=_added(block.commands, block.add))
        except ValueError as error:
            raise DocumentError(f"{document}:{number}: {error}") from None
        found.append(block)
    return found


def unmarked(document: Path) -> list[int]:
    """The lines, from 1, of blocks of commands whose comment does not say how they are run."""
    lines = document.read_text().splitlines()
    found, number, before = [], 0, ""
    while number < len(lines):
        line = lines[number]
        fence = _FENCE.match(line)
        if fence is None and not line.startswith("    "):
            before = line if line.strip() else before
            number += 1
            continue
        code = _code_after(lines, number)
        if not _COMMENT.match(before) and any(map(_COMMAND.match, code.splitlines())):
            found.append(number + 1)
        number += code.count("\n") + (2 if fence else 0)
        before = ""
    return found


def _code_after(lines: list[str], start: int) -> str:
    """The fenced or indented code that begins at the first line that is not empty."""
    rest = iter(lines[start:])
    first = next((line for line in rest if line.strip()), "")
    fence = _FENCE.match(first)
    code: list[str] = []
    if fence is not None:
        for line in rest:
            if line.strip().startswith(fence[1]):
                return "\n".join(code) + "\n"
            code.append(line)
        raise ValueError("the block has no end")
    if not first.startswith("    "):
        raise ValueError("no block of code follows")
    code.append(first)
    for line in rest:
        if line.strip() and not line.startswith("    "):
            break
        code.append(line)
    return "\n".join(line[4:] for line in code).rstrip() + "\n"


def _in_code(lines: list[str], index: int) -> bool:
    """Whether a line is inside of a fenced block, or indented as one."""
    return lines[index].startswith("    ") or any(number == index for number, _ in _fenced(lines))


def _fenced(lines: list[str]) -> Iterator[tuple[int, str]]:
    """The lines of fenced blocks, with the fences."""
    end = ""
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if end:
            yield number, line
            if fence is not None and line.strip().startswith(end):
                end = ""
        elif fence is not None:
            end = fence[1]
            yield number, line


def _prose(document: Path) -> Iterator[tuple[int, str]]:
    """The lines without code, from 1; code within a line is left out."""
    lines = document.read_text().splitlines()
    code = {number for number, _ in _fenced(lines)}
    for number, line in enumerate(lines):
        if number in code or line.startswith("    "):
            continue
        yield number + 1, re.sub(r"`+[^`]*`+", "`", line)


def links(document: Path) -> list[tuple[int, str]]:
    """The targets of all links, with their lines."""
    found = []
    for number, line in _prose(document):
        found += [(number, match[1]) for match in _LINK.finditer(line)]
        reference = _REFERENCE.match(line)
        if reference is not None:
            found.append((number, reference[1]))
    return found


def anchors(document: Path) -> set[str]:
    """What a link may name after ``#``: the headings, as GitHub makes them, and given ids."""
    found: dict[str, int] = {}
    names: set[str] = set()
    lines = document.read_text().splitlines()
    code = {number for number, _ in _fenced(lines)}
    for number, line in enumerate(lines):
        names.update(_ID.findall(line))
        heading = None if number in code else _HEADING.match(line)
        if heading is None:
            continue
        name = _slug(heading[2])
        count = found.get(name, 0)
        found[name] = count + 1
        names.add(f"{name}-{count}" if count else name)
    return names


def _slug(heading: str) -> str:
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"(?<!\w)[*_]+|[*_]+(?!\w)", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def broken(document: Path) -> list[str]:
    """The links of a document that lead nowhere, a line each; other hosts are not asked."""
    found = []
    for number, target in links(document):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        other = (document.parent / path).resolve() if path else document
        where = (
            f"{document.relative_to(ROOT) if document.is_relative_to(ROOT) else document}:{number}"
        )
        if not other.exists():
            found.append(f"{where}: {target}: no such file")
        elif anchor and other.suffix == ".md" and anchor not in anchors(other):
            found.append(f"{where}: {target}: no such heading")
    return found
