"""An ext4 image as the first disk, which the guest reads in full while it migrates."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.emu.test_cli import SMALL, emu

if TYPE_CHECKING:
    from pathlib import Path

MKE2FS = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")
SIZE = 64 << 20


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 image with files, made by e2fsprogs."""
    if MKE2FS is None:
        pytest.skip("mke2fs is not installed (Debian: apt-get install e2fsprogs)")
    folder = tmp_path_factory.mktemp("ext4")
    files = folder / "files"
    files.mkdir()
    for number in range(20):
        (files / f"file{number}").write_bytes(os.urandom(1 << 20))
    path = folder / "disk.ext4"
    with path.open("wb") as file:
        file.truncate(SIZE)
    subprocess.run([MKE2FS, "-q", "-t", "ext4", "-d", str(files), str(path)], check=True)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("write", [False, True], ids=["read-only", "written back"])
def test_the_digests_of_guest_and_host_are_equal(
    image: Path, tmp_path: Path, *, write: bool
) -> None:
    """The guest begins to read before the blackout and ends after it, in both directions."""
    before = hashlib.sha256(image.read_bytes()).hexdigest()
    out = tmp_path / "out.json"
    result = emu(
        *("migrate", *SMALL, "--strategy", "qemu-2021,prewired", "--disk", str(image)),
        *("--json", str(out), *(["--write"] if write else [])),
    )
    assert result.returncode == 0, result.stderr
    assert "across 2 of 2 migrations with the digest that the host has" in result.stdout
    assert f"sha256 {before}\n" in result.stdout
    runs = json.loads(out.read_text())["runs"]
    assert [run["outcome"] for run in runs] == ["completed", "completed"]
    assert all(run["requests_in_flight_at_stop"] > 0 for run in runs)
    assert hashlib.sha256(image.read_bytes()).hexdigest() == before
