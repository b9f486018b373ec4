"""Descriptors with high numbers, as a program with some hundred devices has them."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

#: FD_SETSIZE.
HIGH = 1024


@contextmanager
def high_descriptors() -> Iterator[None]:
    """What is opened inside has numbers from 1024 on; skips where the hard limit forbids it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * HIGH:
        pytest.skip("needs 2048 descriptors: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HIGH), hard))
    below: list[int] = []
    try:
        below.append(os.open("/dev/null", os.O_RDONLY))
        while below[-1] < HIGH - 1:
            below.append(os.dup(below[0]))
        yield
    finally:
        for number in below:
            os.close(number)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
