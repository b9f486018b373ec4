"""A fixed part of the matrix, what the whole has to cover, and what its judge has to notice."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import importlib
import os
import signal
from typing import TYPE_CHECKING

import click
import pytest

from emu.commands import options_document
from tests.backends.served import KINDS
from tests.hostile import neighbour
from tests.hostile.cell import Cell
from tests.hostile.commands import files
from tests.hostile.commands.command import MODULES
from tests.hostile.programs import all_cells
from tests.hostile.runner import Runner
from tests.slow import all_but
from vhost_user.messages import FRONTEND_MESSAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.hostile.front_end.program import Attack

#: Every so many cells of a group are in the fixed part; fewer of those that start a command each.
_STEP, _COMMAND_STEP = 101, 401
#: Inputs that were not ok once.
_FOUND = (
    "for 128, the ring has 1024",
    "started and stopped 100 times",
    "threads 0",
    "threads 10000",
    "of escapes",
    "a time of 0x8000000000000000",
    "FAILED that clears the screen",
)
#: Groups whose cells take long.
_LONG = ("SIGTERM while connected", "bounds")


@pytest.fixture
def runner() -> Iterator[Runner]:
    """A runner that permits the neighbour any delay but a hang: the machine may be busy."""
    runner = Runner(None)
    yield runner
    runner.close()


def _fixed(program: str) -> list[Cell]:
    """The first cell of each group, every so many, and those that were not ok once."""
    groups: dict[str, list[Cell]] = {}
    for cell in all_cells():
        if cell.program == program and cell.group not in _LONG:
            groups.setdefault(cell.group, []).append(cell)
    return [
        cell
        for members in groups.values()
        for number, cell in enumerate(members)
        if not number % (_COMMAND_STEP if program == "command" else _STEP) or cell.input in _FOUND
    ]


@pytest.mark.parametrize(
    "program", all_but(("blk", "incoming"), (*KINDS, "attach", "incoming", "command"))
)
def test_the_fixed_part_is_ok(program: str, runner: Runner) -> None:
    cells = _fixed(program)
    verdicts = runner.run(cells)
    assert len(verdicts) > len(cells) > 2
    assert [(v.cell.name, v.complaint) for v in verdicts if v.complaint] == []


def test_the_matrix_is_large_and_its_names_are_unique() -> None:
    names = [cell.name for cell in all_cells()]
    assert len(names) >= 1500
    assert len(set(names)) == len(names)


def test_each_message_has_cells_of_each_group() -> None:
    """They come from the message table, so a new row has its cells."""
    places: dict[str, set[str]] = {}
    for cell in all_cells():
        places.setdefault(cell.group, set()).add(cell.place)
    for kind in KINDS:
        rows = {f"{kind} {row.name}" for row in FRONTEND_MESSAGES.values()}
        for group in ("message sizes", "descriptor counts", "message states"):
            assert rows <= places[group], group


def test_each_option_that_names_a_file_or_an_address_has_cells() -> None:
    """So a new option has its cells."""
    tried = {(_command_of(option.argv), option.name) for option in files.OPTIONS}
    tried |= _ELSEWHERE
    have = {
        (name, option)
        for name, command in _commands()
        for parameter in command.params
        if isinstance(parameter, click.Option) and _names_a_file(parameter)
        for option in parameter.opts[:1]
    }
    assert tried == have


#: Tried by other cells than those of `files.OPTIONS`; `emu run --qmp` opens the socket of
#: `emu attach --qmp`, and `emu attach --incoming` that of `emu run --incoming`.
_ELSEWHERE = {
    ("emu run", "--incoming"),
    ("emu run", "--qmp"),
    ("emu attach", "--incoming"),
    ("emu migrate", "--to"),
}


def _commands() -> Iterator[tuple[str, click.Command]]:
    for name, module in MODULES.items():
        if name != "emu":
            yield name, importlib.import_module(module).command
    yield from options_document.commands()


def _command_of(argv: Sequence[str]) -> str:
    names = {name for name, _ in _commands()}
    return next(text for n in range(len(argv), 0, -1) if (text := " ".join(argv[:n])) in names)


def _names_a_file(option: click.Option) -> bool:
    return (option.metavar or "").strip("[]") in {"FILE", "PATH", "unix:PATH", "DIR", "URI"}


# What the judge has to notice


def _killed(on: Attack) -> None:
    on.program.signal(signal.SIGKILL)
    on.program.process.wait()


def _stopped(on: Attack) -> None:
    on.program.signal(signal.SIGSTOP)


def _prints_a_traceback(on: Attack) -> None:
    with on.program.process.lines.open("a") as file:
        print("Traceback (most recent call last):", file=file)


def _prints_much(on: Attack) -> None:
    with on.program.process.lines.open("a") as file:
        print("line\n" * 50, file=file)


def _keeps_descriptors(on: Attack) -> None:
    """A connection to the neighbour that is never closed."""
    peer = on.connect()
    os.dup2(peer.sock.fileno(), _KEPT)


_KEPT = 777


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (_killed, "the program has ended, status -9"),
        (_stopped, "the neighbour waits"),
        (_prints_a_traceback, "a traceback"),
        (_prints_much, "51 lines"),
        (_keeps_descriptors, "its next front-end is not served"),
    ],
)
def test_the_judge_notices(
    act: Callable[[Attack], None], text: str, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbour, "ANSWER", 0.5)
    try:
        verdict = runner.run([Cell("judge", "rng", text, "rng", act)])[0]
    finally:
        if act is _keeps_descriptors:
            os.close(_KEPT)
    assert text in verdict.complaint
