"""Writes ``docs/reference/qmp.md`` from the tables of the monitor: ``make docs``."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emu.vm_process.control import Control
from emu.vm_process.monitor import COMMANDS, EVENTS, SERVER_COMMANDS
from emu.vm_process.qemu_commands import Identity, QemuCommands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.qmp.server import Handler

DOCUMENT = "qmp.md"
#: Begins each generated table.
BEGIN = "<!-- generated from emu/vm_process/monitor.py by `make docs`: {} -->"
END = "<!-- end -->"


def _arguments(handler: Handler) -> str:
    """The arguments of a command; those that can be left out are in brackets."""
    names = []
    for parameter in inspect.signature(handler).parameters.values():
        name = f"`{parameter.name.replace('_', '-')}`"
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            name = f"{parameter.name}"
        elif parameter.default is not inspect.Parameter.empty:
            name = f"[{name}]"
        names.append(name)
    return ", ".join(names)


def _commands() -> Iterator[str]:
    yield "| command | arguments | effect |"
    yield "|---|---|---|"
    commands = QemuCommands(Control(lambda _name, _data: None), Identity())
    rows = [(row.name, _arguments(row.handler(commands)), row.help) for row in COMMANDS]
    rows += [(row.name, "", row.help) for row in SERVER_COMMANDS]
    for name, arguments, text in sorted(rows):
        yield f"| `{name}` | {arguments} | {text} |"


def _events() -> Iterator[str]:
    yield "| event | data |"
    yield "|---|---|"
    for row in EVENTS:
        names = ", ".join(f"`{name}`" for name in row.name.split(", "))
        yield f"| {names} | {row.help} |"


def document(text: str) -> str:
    """The document with its tables generated again.

    Raises:
        ValueError: the marks around a table are missing.
    """
    for name, lines in (("commands", _commands()), ("events", _events())):
        mark = BEGIN.format(name)
        before, begin, rest = text.partition(mark)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise ValueError(f"there is no {mark!r} with an {END!r} after it")
        table = "\n".join(lines)
        text = f"{before}{mark}\n{table}\n{END}{after}"
    return text


def main(directory: Path) -> None:
    """Generate the tables of the document in this directory again."""
    path = directory / DOCUMENT
    path.write_text(document(path.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
