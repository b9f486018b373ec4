"""Requests for random bytes: which completions keep the rule."""

from __future__ import annotations

import hashlib
from contextlib import closing, nullcontext

import pytest

from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.device_work import MARK, RngWork, check_random
from vhost_user_conformance.peer.memory import Memory, TestRing

#: Bytes like random ones, the same in each process: they are in the tests' names.
RANDOM = hashlib.sha512(b"rng").digest() + hashlib.sha256(b"rng").digest()


@pytest.mark.parametrize(
    ("data", "written", "right"),
    [
        (RANDOM, 96, True),
        (RANDOM[:40], 40, True),
        (RANDOM[:1], 1, True),
        (b"", 0, False),
        (RANDOM, 0, False),
        (RANDOM, 97, False),
        # Bytes behind the reported length, and a length of bytes that were not written.
        (RANDOM, 40, False),
        (RANDOM[:48], 96, False),
        (bytes(96), 96, False),
    ],
)
def test_a_completion_reports_what_was_written(data: bytes, written: int, *, right: bool) -> None:
    """In buffers of 60 and 36 bytes."""
    memory = Memory()
    with closing(memory), closing(TestRing(memory, 0)) as ring:
        job = RngWork().request(memory, ring, (60, 36))
        assert RngWork.data_of(memory, job) == bytes([MARK]) * 96
        whole = data.ljust(96, bytes([MARK]))
        for (gpa, size), at in zip(job.buffers, (0, 60), strict=True):
            memory.write(gpa, whole[at : at + size])
        with nullcontext() if right else pytest.raises(Failed):
            assert check_random(memory, job, written) == data[:written]
