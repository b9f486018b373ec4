"""Output files: what is at the name already, and what others have put there."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import errno
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.timeouts import TIMEOUT
from vhost_user import output_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from pathlib import Path


def _append(path: Path, text: str) -> None:
    fd = output_file.open_to_append(path)
    os.write(fd, text.encode())
    os.close(fd)


WRITERS = {"write": output_file.write, "append": _append}
EVERY_WRITER = pytest.mark.parametrize("write", WRITERS.values(), ids=list(WRITERS))


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A file that the user did not name."""
    path = tmp_path / "victim"
    path.write_text("precious")
    return path


@EVERY_WRITER
def test_a_new_file_has_the_umasks_permissions(
    write: Callable[[Path, str], None], tmp_path: Path
) -> None:
    before = os.umask(0o27)
    try:
        write(tmp_path / "out", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "out").read_text() == "text"
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640
    assert len(list(tmp_path.iterdir())) == 1


@EVERY_WRITER
@pytest.mark.parametrize("linked", [False, True])
def test_a_fifo_that_no_process_reads_is_an_error(
    write: Callable[[Path, str], None],
    linked: bool,
    tmp_path: Path,
) -> None:
    """It is not waited for without limit: a program would neither start nor end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    if linked:
        path = tmp_path / "link"
        path.symlink_to("fifo")
    with pytest.raises(OSError, match="no process reads this FIFO"):
        write(path, "text")


@EVERY_WRITER
def test_the_reader_of_a_fifo_may_come_a_little_later(
    write: Callable[[Path, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first attempt to open it. The writes wait, as the text does not fit the pipe."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    text = "text" * 100_000
    with ThreadPoolExecutor() as pool:
        reading: list[Future[str]] = []

        def start_reader(_: float) -> None:
            if not reading:
                reading.append(pool.submit(path.read_text))

        clock = SimpleNamespace(sleep=start_reader, monotonic=lambda: 0.0)
        monkeypatch.setattr(output_file, "time", clock)
        write(path, text)
        assert reading.pop().result(TIMEOUT) == text


@EVERY_WRITER
def test_a_link_to_a_file_is_not_followed(
    write: Callable[[Path, str], None], victim: Path, tmp_path: Path
) -> None:
    """It is replaced, or refused."""
    link = tmp_path / "out"
    link.symlink_to(victim)
    try:
        write(link, "text")
    except OSError as error:
        assert error.errno == errno.ELOOP  # noqa: PT017
    else:
        assert not link.is_symlink()
        assert link.read_text() == "text"
    assert victim.read_text() == "precious"


@EVERY_WRITER
def test_a_link_to_nothing_makes_no_file_elsewhere(
    write: Callable[[Path, str], None], tmp_path: Path
) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    try:
        write(tmp_path / "out", "text")
    except OSError as error:
        assert error.errno == errno.ELOOP  # noqa: PT017
    assert not (tmp_path / "elsewhere").exists()


@EVERY_WRITER
@pytest.mark.parametrize("through", ["itself", "link", "/proc"])
def test_a_fifo_is_written_to(
    write: Callable[[Path, str], None], through: str, tmp_path: Path
) -> None:
    """It stays one; ``>(command)`` is a link to it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    name = fifo
    if through == "link":
        name = tmp_path / "out"
        name.symlink_to(fifo)
    elif through == "/proc":
        name = type(fifo)(f"/proc/self/fd/{reader}")
    write(name, "text")
    assert os.read(reader, 100) == b"text"
    os.close(reader)
    assert fifo.is_fifo()


@EVERY_WRITER
def test_a_directory_is_refused(write: Callable[[Path, str], None], tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"(?i)is a directory|not a regular file"):
        write(tmp_path, "text")


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o600)
    with path.open() as reader:
        output_file.write(path, "new")
        assert (reader.read(), path.read_text()) == ("old", "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_error_in_the_block_changes_nothing(victim: Path, tmp_path: Path) -> None:
    with suppress(ZeroDivisionError), output_file.replaced(victim) as fd:
        os.write(fd, b"half")
        raise ZeroDivisionError
    assert victim.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [victim]


def test_an_error_names_the_users_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        output_file.write(tmp_path / "none" / "out", "text")
    assert caught.value.filename == str(tmp_path / "none" / "out")


def test_a_name_that_is_no_stream_any_more(victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was one when it was looked at."""
    monkeypatch.setattr(output_file, "is_stream", lambda _path: True)
    with pytest.raises(OSError, match="not a stream any more"):
        output_file.write(victim, "text")
    assert victim.read_text() == "precious"
