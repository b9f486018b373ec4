"""The compiled extension: fences, addresses and SHA-256 in the caller's memory."""
# ruff: noqa: D103 - the name of a test says what it is about

from __future__ import annotations

import hashlib
import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vhost_user import native
from vhost_user.errors import UsageError

BLOCKS = st.lists(st.integers(0, 9).flatmap(lambda n: st.binary(min_size=64 * n, max_size=64 * n)))


def test_the_extension_was_built() -> None:
    assert native.available


@pytest.mark.parametrize("barrier", [native.barrier, native.python_barrier])
def test_barriers_return(barrier: object) -> None:
    assert callable(barrier)
    assert barrier() is None


@given(BLOCKS)
def test_sha256_agrees_with_hashlib(pieces: list[bytes]) -> None:
    state = native.Sha256State(memoryview(bytearray(40)))
    state.reset()
    reference = hashlib.sha256()
    for piece in pieces:
        state.update(piece)
        reference.update(piece)
        assert state.hexdigest() == reference.hexdigest()
    assert state.hexdigest() == reference.hexdigest()
    assert state.length == sum(map(len, pieces))


def test_sha256_goes_on_from_memory_alone() -> None:
    memory = mmap.mmap(-1, 4096)
    first = native.Sha256State(memoryview(memory)[72:112])
    first.reset()
    first.update(b"a" * 128)
    moved = bytearray(memory[72:112])
    second = native.Sha256State(memoryview(moved))
    second.update(memoryview(b"b" * 64))
    assert second.hexdigest() == hashlib.sha256(b"a" * 128 + b"b" * 64).hexdigest()
    assert first.hexdigest() == hashlib.sha256(b"a" * 128).hexdigest()


def test_sha256_refuses_what_it_cannot_take() -> None:
    with pytest.raises(UsageError, match="40 bytes"):
        native.Sha256State(memoryview(bytearray(39)))
    state = native.Sha256State(memoryview(bytearray(40)))
    state.reset()
    with pytest.raises(UsageError, match="64"):
        state.update(b"x" * 65)
    assert state.length == 0


def test_address_of_points_at_the_bytes() -> None:
    data = bytearray(b"abcdef")
    address = native.address_of(memoryview(data)[2:])
    assert bytes(native.ffi.buffer(native.ffi.cast("char *", address), 4)) == b"cdef"


def test_error_without_the_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "available", False)
    for needs in (
        native.require,
        native.log_marker,
        lambda: native.Sha256State(memoryview(bytearray(40))),
    ):
        with pytest.raises(UsageError, match="extension"):
            needs()
