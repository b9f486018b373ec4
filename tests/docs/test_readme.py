"""The commands of README's table "I want to ...": each one runs as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.docs.documents import ROOT, Block, blocks
from tests.docs.shell import SLOW_TIMEOUT, Shell

if TYPE_CHECKING:
    from collections.abc import Iterator

README = ROOT / "README.md"
_ROW = re.compile(r"\| (?P<purpose>[^|]+) \| (?P<commands>[^|]*) \| [^|]+ \|")
#: What the words in capitals stand for.
_WORDS = {
    "FILE": "disk.img",
    "SOCKET": "disk.sock",
    "PATH": "disk.sock",
    "URI": "unix:b.sock",
    "DIR": "images",
}
_DISK = "truncate -s 16M disk.img\n"
_VM = "emu run --net 1x2 --blk 1x1 --vcpus 1 --memory 64M --qmp unix:disk.sock\n"
_SERVER = _DISK + "vhost-emu-blk --socket-path disk.sock --blk-file disk.img --num-queues 2\n"


def _program(name: str, command: str) -> str:
    """Commands that make a program which starts this one; its first argument is a socket's path."""
    return f"printf '#!/bin/sh\\nexec {command}\\n' > {name}\nchmod +x {name}\n"


_BACKEND = _DISK + _program("my-backend", 'vhost-emu-blk --socket-path "$1" --blk-file disk.img')
_VMM = _program("my-vmm", 'emu attach --blk "$1" --rings 2 --scratch -q')


#: COMMAND is called with the paths of a socket and of an image.
_BLK_PROGRAM = _program(
    "COMMAND", 'vhost-emu-blk --num-queues 4 --socket-path "$1" --blk-file "$2"'
)


#: Of the conformance suite; `tests/vhost_user_conformance` runs all of it.
_PART = "--shard 1/8"


class Use(NamedTuple):
    """How commands of a row are run.

    Attributes:
        before: commands that make what they need.
        server: a program that they need, which goes on; it listens at ``disk.sock``.
        options: what is added to each command: a command that goes on until Ctrl-C ends with it, or
            it does a part only of what takes a user minutes.
        background: the first of them goes on, and listens at this path.
        slow: they take long, the VM of the RFC in most cases.
        status: the exit status of the last one.
        needs: a file that must be accessible.
    """

    before: str = ""
    server: str = ""
    options: str = ""
    background: str = ""
    slow: bool = True
    status: int = 0
    needs: str = ""


#: By the purpose in the first column.
USES = {
    "compare strategies on my own VM's shape": Use(),
    "reproduce the RFC's figures": Use(),
    "see how downtime grows with the number of rings": Use(options="--devices 4,8"),
    "migrate hundreds of VMs on several hosts, and continue after an interruption": Use(
        options="--net 1x2 --blk 0,1x1 --repeat 1"
    ),
    "migrate a real disk image while the guest hashes it": Use(
        "head -c 16M /dev/urandom > disk.img"
    ),
    "see a guest that writes faster than memory is sent": Use(),
    "reproduce the RFC's double disable or its deadlock": Use(status=1),
    "run the vCPUs, ioeventfds and irqfds in KVM": Use(needs="/dev/kvm"),
    "measure the downtime from outside, through bridges": Use(),
    "migrate to another terminal or machine, with TLS": Use("mkdir images", background="b.sock"),
    "run a VM with many queues under load": Use(),
    "show a result to others": Use(),
    "see a migration as a timeline": Use(),
    "drive a VM with the tools for QEMU": Use(background="disk.sock"),
    "watch the devices of a running VM": Use(server=_VM, options="--once", slow=False),
    "see the messages between my front-end and my back-end": Use(
        server=_SERVER, background="TAP", slow=False
    ),
    "migrate a VM on my own back-ends": Use(_BLK_PROGRAM),
    "run a VM on a back-end that I have started": Use(server=_SERVER, slow=False),
    "test my back-end for conformance": Use(_BACKEND, options=_PART),
    "test my front-end for conformance": Use(_VMM, options=_PART),
    "test many back-ends and front-ends, in parts side by side": Use(
        r"printf '[nic]\nexec = \"vhost-emu-net --socket-path {socket}\"\nonly = [\"framing\"]\n'"
        " > disk.img",
        options="--workers 1 --shards 1",
    ),
    "see which differences between two runs are real": Use(
        "emu migrate --net 0 --blk 1x1 --vcpus 1 --memory 64M -s split -q --json disk.img\n",
        slow=False,
    ),
    "test in CI, with a baseline of known failures or a limit for the downtime": Use(
        _BACKEND, options=_PART
    ),
    "run the conformance cases in my pytest suite": Use(_BACKEND, options="-k VU-B-03"),
    "serve a disk to my front-end": Use(_DISK, background="disk.sock", slow=False),
    "serve an entropy device to my front-end": Use(background="disk.sock", slow=False),
    "write a back-end in Python": Use(background="disk.sock", slow=False),
    "check what this host can run": Use(slow=False),
}


def _rows() -> Iterator[tuple[str, list[str]]]:
    """Purpose and commands of each row."""
    table = README.read_text().partition("\n## I want to ...\n")[2].partition("\n## ")[0]
    for line in table.splitlines()[2:]:
        row = _ROW.fullmatch(line)
        if row is not None and row["purpose"] not in ("I want to ...", "---"):
            yield row["purpose"], re.findall(r"`([^`]+)`", row["commands"])


ROWS = dict(_rows())


def _parameter(purpose: str) -> object:
    use = USES[purpose]
    marks = [pytest.mark.document]
    if use.slow:
        marks += [pytest.mark.slow, pytest.mark.timeout(2 * SLOW_TIMEOUT)]
    return pytest.param(purpose, id=purpose, marks=marks)


def test_each_row_has_a_command_and_a_use() -> None:
    """A row that is added is run, and a use without a row is found."""
    assert {purpose: bool(commands) for purpose, commands in ROWS.items()} == dict.fromkeys(
        USES, True
    )


@pytest.mark.parametrize("purpose", [_parameter(purpose) for purpose in USES])
def test_the_commands_of_a_row_run(purpose: str) -> None:
    """With files and sockets in place of the words in capitals."""
    use = USES[purpose]
    if use.needs and not os.access(use.needs, os.R_OK | os.W_OK):
        pytest.skip(f"{use.needs} cannot be used here")
    shell = Shell()
    try:
        for block in _blocks(use, ROWS[purpose]):
            shell.run(block)
    finally:
        shell.close()


@pytest.mark.document
@pytest.mark.slow
@pytest.mark.timeout(SLOW_TIMEOUT + 30)
def test_make_migrate() -> None:
    """In the repository, whose environment is installed: it is not installed by a test."""
    if subprocess.run(["make", "--question", ".venv/.installed"], cwd=ROOT, check=False).returncode:
        pytest.skip("make would install .venv anew")
    shell = Shell()
    try:
        shell.run(Block(README, 1, "make migrate", in_root=True, slow=True))
    finally:
        shell.close()


def _blocks(use: Use, commands: list[str]) -> Iterator[Block]:
    plugin = next(block for block in blocks(_FIRST_BACK_END) if block.file)
    yield plugin
    if use.before:
        yield Block(README, 1, use.before)
    if use.server:
        yield Block(README, 2, use.server, background=True, awaits="disk.sock")
    for number, command in enumerate(commands):
        text = re.sub(r"\b[A-Z]{3,}\b", lambda word: _WORDS.get(word[0], word[0]), command)
        text = text.replace("--plugin disk.img", f"--plugin {plugin.file}")
        text += f" {use.options}" if use.options else ""
        goes_on = bool(use.background) and not number
        yield Block(
            README,
            3 + number,
            text,
            status=use.status,
            background=goes_on,
            awaits=use.background if goes_on else "",
            slow=use.slow,
        )


_FIRST_BACK_END = ROOT / "docs" / "tutorials" / "first-back-end.md"
