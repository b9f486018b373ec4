"""The pcapng file, and the dissector beside it."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import re
import struct
import subprocess
import time
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, NamedTuple

import pytest

from emu.tap.pcapng import FROM_BACK_END, HEADER, ON_CHANNEL, VERSION, PcapngWriter, section
from tests.emu.tap.talk import F, Talk
from tests.peers.programs import need
from tests.timeouts import PROGRAM_TIMEOUT
from vhost_user.messages import BACKEND_MESSAGES, FRONTEND_MESSAGES, BackendRequest
from vhost_user.payloads import (
    U64,
    Config,
    Inflight,
    LogArea,
    MemoryRegion,
    MemTable,
    VringAddr,
    VringState,
)

if TYPE_CHECKING:
    from pathlib import Path

    from vhost_user.payload_layout import Payload

DISSECTOR = files("emu.tap").joinpath("vhost_user.lua")
REGION = MemoryRegion(0x1000, 0x2000, 0x3000, 0)


class Block(NamedTuple):
    """A block: its type and body, without the two sizes."""

    kind: int
    body: bytes


def blocks_of(data: bytes) -> list[Block]:
    """All blocks; each has its size at both ends, and whole words."""
    blocks, at = [], 0
    while at < len(data):
        kind, size = struct.unpack_from("=II", data, at)
        assert size % 4 == 0
        assert struct.unpack_from("=I", data, at + size - 4) == (size,)
        blocks.append(Block(kind, data[at + 8 : at + size - 4]))
        at += size
    return blocks


def recorded(talk: Talk) -> bytes:
    """The file of a conversation."""
    writer = PcapngWriter()
    return section() + b"".join(map(writer.blocks_of, talk.records))


def packets(data: bytes) -> list[tuple[int, int, bytes]]:
    """Interface, time and contents of each packet."""
    found = []
    for kind, body in blocks_of(data):
        if kind == 6:
            interface, high, low, size, whole = struct.unpack_from("=IIIII", body)
            assert size == whole
            found.append((interface, high << 32 | low, body[20 : 20 + size]))
    return found


def test_a_section_an_interface_for_each_device_and_packets() -> None:
    talk = Talk(device="a")
    other = Talk(device="b", clock=talk.clock, reader=talk.reader)
    talk.ask(F.GET_FEATURES)
    other.ask(F.SET_OWNER)
    talk.answer(F.GET_FEATURES, U64(1))
    data = recorded(talk)
    blocks = blocks_of(data)
    assert [block.kind for block in blocks] == [0x0A0D0D0A, 1, 6, 1, 6, 6]
    assert struct.unpack_from("=IHHq", blocks[0].body) == (0x1A2B3C4D, 1, 0, -1)
    for block, name in ((blocks[1], b"a"), (blocks[3], b"b")):
        assert struct.unpack_from("=HHI", block.body) == (147, 0, 0)
        assert struct.pack("=HH", 2, 1) + name in block.body
        assert struct.pack("=HHB", 9, 1, 9) in block.body
    assert [interface for interface, _, _ in packets(data)] == [0, 1, 0]


def test_a_packet_is_the_header_and_the_message() -> None:
    talk = Talk()
    talk.ask(F.SET_VRING_KICK, U64(3), fds=1)
    talk.ask(F.GET_FEATURES)
    talk.answer(F.GET_FEATURES, U64(5))
    talk.ask(BackendRequest.CONFIG_CHANGE_MSG, on_channel=True)
    kick, _, reply, change = (contents for _, _, contents in packets(recorded(talk)))
    assert HEADER.unpack_from(kick)[:3] == (VERSION, 0, 1)
    assert kick[HEADER.size :] == struct.pack("=IIIQ", 12, 1, 8, 3)
    assert HEADER.unpack_from(reply) == (VERSION, FROM_BACK_END, 0, 1000)
    assert HEADER.unpack_from(change)[1] == FROM_BACK_END | ON_CHANNEL


def test_times_are_those_of_the_wall_clock() -> None:
    talk = Talk()
    talk.clock.now = time.monotonic_ns()
    before = time.time_ns()
    talk.ask(F.SET_OWNER)
    ((_, stamp, _),) = packets(recorded(talk))
    assert abs(stamp - before) < 10**9


def test_the_dissector_has_every_message() -> None:
    text = DISSECTOR.read_text(encoding="utf-8")
    for name, table in (("FRONT_END", FRONTEND_MESSAGES), ("BACK_END", BACKEND_MESSAGES)):
        found = re.search(rf"local {name} = {{(.*?)\n}}", text, re.DOTALL)
        assert found is not None
        rows = re.findall(r"\[(\d+)\] = \"(\w+)\",", found[1])
        assert {int(number): row for number, row in rows} == {
            int(number): row.name for number, row in table.items()
        }


#: Messages, and what tshark has to print of each: the summary, and words of the details.
SHOWN: list[tuple[F, Payload | None, str, str]] = [
    (F.GET_FEATURES, None, "GET_FEATURES", "Payload size: 0"),
    (F.SET_FEATURES, U64(0x140000000), "SET_FEATURES 0x140000000", "Value: 0x0000000140000000"),
    (F.SET_VRING_NUM, VringState(3, 256), "SET_VRING_NUM vring 3, 256", "Number: 256"),
    (F.SET_VRING_KICK, U64(0x103), "SET_VRING_KICK vring 3", "No descriptor: True"),
    (
        F.SET_VRING_ADDR,
        VringAddr(1, 1, 0x10, 0x20, 0x30, 0x40),
        "SET_VRING_ADDR",
        "Used ring: 0x0000000000000020",
    ),
    (F.SET_MEM_TABLE, MemTable((REGION, REGION)), "SET_MEM_TABLE", "Region 1"),
    (F.SET_LOG_BASE, LogArea(4096, 0), "SET_LOG_BASE", "Area size: 0x0000000000001000"),
    (F.GET_INFLIGHT_FD, Inflight(1, 2, 4, 128), "GET_INFLIGHT_FD", "Queue size: 128"),
    (F.GET_CONFIG, Config(8, 0, b"\1\2"), "GET_CONFIG", "Configuration: 0102"),
]


@pytest.mark.peer
def test_tshark_shows_every_message(tmp_path: Path) -> None:
    """By name, with its fields, and without complaint."""
    tshark = need("tshark", "tshark")
    talk = Talk()
    for message, payload, _, _ in SHOWN:
        talk.ask(message, payload)
    for number in FRONTEND_MESSAGES:
        talk.ask(number, bytes(5))
        talk.answer(number, bytes(8))
    for number in BACKEND_MESSAGES:
        talk.ask(number, on_channel=True)
        talk.answer(number, U64(0), on_channel=True)
    (tmp_path / "file").write_bytes(recorded(talk))

    def run(*arguments: str) -> str:
        with as_file(DISSECTOR) as script:
            command = [tshark, "-X", f"lua_script:{script}", "-r", str(tmp_path / "file")]
            done = subprocess.run(
                [*command, *arguments],
                capture_output=True,
                text=True,
                timeout=PROGRAM_TIMEOUT,
                check=True,
            )
        assert "lua" not in (done.stdout + done.stderr).lower()
        return done.stdout

    lines = run().splitlines()
    assert len(lines) == len(talk.messages)
    for line, read in zip(lines, talk.messages, strict=True):
        assert f" {read.full_name}" in line
    details = run("-V").split("\nFrame ")
    for line, detail, (_, _, summary, words) in zip(lines, details, SHOWN, strict=False):
        assert line.endswith(f"VHOST_USER_{summary}")
        assert words in detail


def test_an_interface_whose_block_was_not_written_comes_again() -> None:
    """A packet of an interface that the file lacks would be the end of the file for a reader."""
    talk = Talk(device="a")
    other = Talk(device="b", clock=talk.clock, reader=talk.reader)
    writer = PcapngWriter()
    data = section()
    for number, speaker in enumerate((talk, talk, other, other)):
        speaker.ask(F.SET_OWNER)
        blocks = writer.blocks_of(talk.messages[-1])
        if number in (0, 2):
            writer.forget()
        else:
            data += blocks
    assert [block.kind for block in blocks_of(data)][1:] == [1, 6, 1, 6]
    assert [interface for interface, _, _ in packets(data)] == [0, 1]
    writer.forget()
    talk.ask(F.SET_OWNER)
    assert [block.kind for block in blocks_of(writer.blocks_of(talk.messages[-1]))] == [6]
