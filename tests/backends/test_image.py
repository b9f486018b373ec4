"""The file behind a disk."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backends.image import Image, ImageError

SIZE = 1 << 20


@pytest.fixture
def path(tmp_path: Path) -> str:
    file = tmp_path / "disk"
    file.write_bytes(b"\x5a" * SIZE)
    return str(file)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot be opened for reading and writing: No such"):
        Image(str(tmp_path / "none"))


@pytest.mark.parametrize(
    ("size", "text"), [(0, "is empty"), (513, "513 bytes is not a multiple of 512")]
)
def test_invalid_sizes(tmp_path: Path, size: int, text: str) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(size))
    with pytest.raises(ImageError, match=text):
        Image(str(file))


def test_size_is_read_again(path: str) -> None:
    image = Image(path)
    assert not image.refresh()
    os.truncate(path, 2 * SIZE)
    assert image.refresh()
    assert image.size == 2 * SIZE
    for size, text in ((SIZE, "less than"), (2 * SIZE + 1, "not a multiple of 512"), (0, "empty")):
        os.truncate(path, size)
        with pytest.raises(ImageError, match=text):
            image.refresh()
        assert image.size == 2 * SIZE
    image.close()


def test_neither_a_file_nor_a_block_device(tmp_path: Path) -> None:
    with pytest.raises(ImageError):
        Image(str(tmp_path))
    with pytest.raises(ImageError, match="neither a file nor a block device"):
        Image("/dev/null")


def test_two_writers_exclude_each_other(path: str) -> None:
    first, second = Image(path), Image(path)
    assert first.lock() is None
    assert first.lock() is None
    assert "in use" in str(second.lock())
    first.unlock()
    assert second.lock() is None
    second.close()
    assert first.lock() is None
    first.close()


def test_readers_share_and_exclude_writers(path: str) -> None:
    first, second = Image(path, read_only=True), Image(path, read_only=True)
    writer = Image(path)
    assert first.lock() is None
    assert second.lock() is None
    assert writer.lock() is not None
    for image in (first, second, writer):
        image.close()


def test_zeroes_and_discards(path: str) -> None:
    image = Image(path)
    image.write_zeroes(4096, 8192, unmap=False)
    image.write_zeroes(65536, 65536, unmap=True)
    image.discard(262144, 4096)
    data = Path(path).read_bytes()
    assert data[4096 : 4096 + 8192] == bytes(8192)
    assert data[65536:131072] == bytes(65536)
    assert data[:4096] == b"\x5a" * 4096
    assert data[131072:262144] == b"\x5a" * 131072
    assert len(data) == SIZE
    assert Path(path).stat().st_blocks * 512 < SIZE
    image.close()


def test_zeroes_where_the_file_system_cannot(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image(path)
    monkeypatch.setattr(image, "_allocate", lambda *_: False)
    image.write_zeroes(512, 3 << 18, unmap=False)
    data = Path(path).read_bytes()
    assert data[512 : 512 + (3 << 18)] == bytes(3 << 18)
    assert data[:512] == b"\x5a" * 512
    assert data[512 + (3 << 18)] == 0x5A
    image.close()


def test_reads_and_writes_in_pieces(path: str) -> None:
    image = Image(path)
    segments = [memoryview(bytearray(b"a" * 700)), memoryview(bytearray(b"b" * 324))]
    image.write(segments, 512)
    back = [memoryview(bytearray(n)) for n in (1, 1000, 23)]
    image.read(back, 512)
    assert b"".join(back) == b"a" * 700 + b"b" * 324
    with pytest.raises(OSError, match="shorter"):
        image.read(back, SIZE - 100)
    image.close()
