"""The file of `emu conform peers`."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from pathlib import Path

import pytest

from emu.conformance.peers_file import read
from emu.errors import OptionError, PreflightError
from vhost_user_conformance.model.case import BACK_END, FRONT_END


def peers(tmp_path: Path, text: str) -> list[object]:
    file = tmp_path / "peers.toml"
    file.write_text(text)
    return list(read(file))


def test_a_table_is_a_peer(tmp_path: Path) -> None:
    file = tmp_path / "peers.toml"
    file.write_text(
        """
        [my-backend]
        exec = "my-backend {socket}"
        device = "blk"
        patience = 5
        scratch = true
        only = ["framing", "VU-B-0401"]
        known = "known.txt"

        [my-vmm]
        role = "front-end"
        exec = "my-vmm {socket}"
        """
    )
    back, front = read(file)
    assert (back.name, back.target.role, back.target.device) == ("my-backend", BACK_END, "blk")
    assert (back.target.patience, back.target.scratch) == (5.0, True)
    assert {case.area for case in back.cases} >= {"framing"}
    assert back.known == Path("known.txt")
    assert (front.name, front.target.role, front.target.command) == (
        "my-vmm",
        FRONT_END,
        "my-vmm {socket}",
    )
    assert len(front.cases) > len(back.cases)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "it has 0 peers"),
        ("x = 1", r"\[x\]: the value is not an object"),
        ("[x]", r"\[x\]: exec is missing"),
        ('[x]\nexec = "a {socket}"\ncolor = "red"', r"\[x\]: color is unknown"),
        ('[x]\nexec = "a {socket}"\nrole = "both"', "role is 'both', not one of back-end"),
        ('[x]\nexec = "a {socket}"\ndevice = "gpu"', "device is 'gpu'"),
        ('[x]\nexec = "a {socket}"\npatience = 0', "patience is 0, not"),
        ('[x]\nexec = "a {socket}"\nonly = ["magic"]', "--only magic: no such case"),
        ('["a/b"]\nexec = "a {socket}"', "is no name of a peer"),
        ("[x", "Expected"),
    ],
)
def test_an_invalid_file_is_one_line(text: str, line: str, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=line):
        peers(tmp_path, text)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match="No such file"):
        read(tmp_path / "none.toml")
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(OptionError, match="can't decode"):
        read(tmp_path / "bytes")
