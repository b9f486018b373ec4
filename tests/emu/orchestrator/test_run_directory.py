"""The temporary directory of a run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from emu.config.vm_spec import VmSpec
from emu.errors import PreflightError
from emu.orchestrator.run_directory import SCRATCH_BYTES, RunDirectory, longest_name


def test_the_directory_is_removed_with_its_contents() -> None:
    """Sockets, images, logs."""
    with RunDirectory() as directory:
        directory.log("A", "blk").write_text("x")
        directory.image("blk0")
        assert directory.path.is_dir()
    assert not directory.path.exists()


def test_an_image_is_sparse_and_created_once() -> None:
    """Both sides open the same image."""
    with RunDirectory() as directory:
        image = directory.image("blk0")
        image.write_bytes(b"x" * 512)
        assert directory.image("blk0") == image
        assert image.read_bytes() == b"x" * 512
        other = directory.image("blk1").stat()
        assert (other.st_size, other.st_blocks) == (SCRATCH_BYTES, 0)


def test_images_in_the_users_directory_stay(tmp_path: Path) -> None:
    """A file of that name with another size is refused."""
    with RunDirectory(tmp_path) as directory:
        assert directory.image("blk0") == tmp_path / "blk0.img"
        (tmp_path / "blk1.img").write_bytes(b"precious")
        with pytest.raises(PreflightError, match="is not a scratch image"):
            directory.image("blk1")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blk0.img", "blk1.img"]
    assert (tmp_path / "blk1.img").read_bytes() == b"precious"


def test_longest_name_is_the_longest_socket_name_of_a_run() -> None:
    """The validation of options uses it."""
    spec = VmSpec()
    with RunDirectory() as directory:
        paths = [directory.socket(side, d.name) for side in "AB" for d in spec.devices]
        paths += [directory.stream(1000), directory.uplink("A", "net-0")]
        assert max(len(path.name) for path in paths) <= len(longest_name(spec))


def test_a_missing_temporary_directory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was removed after Python had found it."""
    monkeypatch.setattr(tempfile, "tempdir", str(Path("/nonexistent")))
    with pytest.raises(PreflightError, match="directory for sockets cannot be created"):
        RunDirectory()


def test_the_directory_of_a_killed_run_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories of current runs and other directories stay."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    code = (
        "import os, signal\n"
        "from emu.orchestrator.run_directory import RunDirectory\n"
        "directory = RunDirectory()\n"
        "directory.image('blk0')\n"
        "print(directory.path, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    stale = Path(killed.stdout.strip())
    assert stale.is_dir()
    own = tmp_path / "emu-of-user"
    own.mkdir()
    with RunDirectory() as first:
        assert not stale.exists()
        with RunDirectory() as second:
            assert first.path.is_dir()
            assert second.path.is_dir()
    assert list(tmp_path.iterdir()) == [own]


def test_a_full_file_system_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The images' directory, or the run's own."""
    with RunDirectory() as directory:
        assert directory.shortage() == ""
        monkeypatch.setattr(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=0))
        assert directory.shortage() == f"no space left on device in {directory.path}"


@pytest.mark.parametrize("target", ["another image", "nothing", "itself"])
def test_a_link_is_no_scratch_image(target: str, tmp_path: Path) -> None:
    """The guest would overwrite what it leads to, which may be of the same size."""
    victim, images = tmp_path / "victim", tmp_path / "images"
    images.mkdir()
    link = images / "blk0.img"
    if target == "another image":
        victim.touch()
        os.truncate(victim, SCRATCH_BYTES)
    link.symlink_to(link if target == "itself" else victim)
    with RunDirectory(images) as directory, pytest.raises(PreflightError, match="not a scratch"):
        directory.image("blk0")
    assert victim.exists() == (target == "another image")
