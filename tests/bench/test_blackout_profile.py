"""The command that says where a blackout's time goes."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from bench import blackout_profile
from tests.timeouts import PROGRAM_TIMEOUT


def test_it_has_a_row_for_each_step_and_the_sum() -> None:
    """With one round its figures are those of cold code, and are printed all the same."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.blackout_profile", "--rounds", "1"],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "| step | end | us per ring | us per device |"
    assert len([line for line in lines if "| front-end |" in line]) == 4
    assert len([line for line in lines if "| back-end |" in line]) == 7
    assert re.search(r"608 rings of 40 devices: [0-9.]+ ms of CPU", done.stdout)
    assert "floor" in done.stdout


def test_what_a_ring_costs_is_the_slope() -> None:
    """And what a device costs is the rest, of a device with one ring."""
    steps = ("encode", "front-end", "back-end", "decode", "decode and check")
    keys = [f"{name}, {step}" for name in ("stop", "restart") for step in steps]
    one = dict.fromkeys(keys, 30_000.0) | {"first kick, back-end": 9_000.0}
    many = dict.fromkeys(keys, 92_000.0) | {"first kick, back-end": 164_000.0}
    made = blackout_profile.rows(one, many, 32)
    encode, kick = made[0], made[-1]
    assert (encode.ring, encode.device) == (2_000.0, 28_000.0)
    assert (kick.ring, kick.device) == (5_000.0, 4_000.0)
    assert made[3].ring == pytest.approx(0.0), "without what the decoder takes"
    assert "| GET_VRING_BASE: decode | back-end | 2.00 | 28.0 |" in blackout_profile.table(made)
