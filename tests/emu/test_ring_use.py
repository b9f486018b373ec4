"""Guests that use some rings of their devices, or none: `emu run`, `emu migrate`, `emu attach`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from emu.strategies.registry import STRATEGIES
from tests import slow
from tests.emu.runs import EMU
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

VM = (
    *("--net", "1x4", "--blk", "2x4", "--rng", "1x1"),
    *("--vcpus", "2", "--memory", "256M", "--accel", "soft"),
)
FAILURES = ("lost", "duplicated", "corrupted", "packets_duplicated", "packets_reordered")


def emu(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*EMU, *arguments], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )


def document(*arguments: str) -> dict[str, Any]:
    """The JSON of a run that succeeds, and whose report names the rings in use."""
    done = emu(*arguments, *VM, "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    for device in result["vm"]["devices"]:
        if len(device["rings_used"]) == device["rings"]:
            continue
        line = f"{device['count']} {device['class']} x {device['rings']} rings (used: "
        assert line in done.stderr
    return result


SOME = ("--rings-used", "blk=1,3", "--pairs-used", "1", "--rings-used", "rng=none")
LAST = ("--rings-used", "net=2-3", "--rings-used", "blk=3")
NONE = ("--rings-used", "net=none", "--rings-used", "blk=none", "--rings-used", "rng=none")
USED: dict[tuple[str, ...], list[dict[str, object]]] = {
    SOME: [
        {"class": "net", "count": 1, "rings": 4, "rings_used": [0, 1], "rings_disabled": [2, 3]},
        {"class": "blk", "count": 2, "rings": 4, "rings_used": [1, 3], "rings_disabled": []},
        {"class": "rng", "count": 1, "rings": 1, "rings_used": [], "rings_disabled": []},
    ],
    LAST: [
        {"class": "net", "count": 1, "rings": 4, "rings_used": [2, 3], "rings_disabled": []},
        {"class": "blk", "count": 2, "rings": 4, "rings_used": [3], "rings_disabled": []},
        {"class": "rng", "count": 1, "rings": 1, "rings_used": [0], "rings_disabled": []},
    ],
    NONE: [
        {"class": "net", "count": 1, "rings": 4, "rings_used": [], "rings_disabled": []},
        {"class": "blk", "count": 2, "rings": 4, "rings_used": [], "rings_disabled": []},
        {"class": "rng", "count": 1, "rings": 1, "rings_used": [], "rings_disabled": []},
    ],
}


@pytest.mark.parametrize("options", slow.all_but({SOME}, [SOME, NONE]), ids=["some", "none"])
def test_a_run(options: tuple[str, ...]) -> None:
    """Rings in use work, and the devices without one do nothing, which is no failure."""
    result = document("run", "--for", "1s", *options)
    assert result["vm"]["devices"] == USED[options]
    assert not any(result["integrity"][name] for name in FAILURES)
    totals = result["totals"]
    assert bool(totals["blk"]["requests"]) == bool(totals["net"]["packets"]) == (options == SOME)
    assert totals["rng"]["requests"] == 0


@pytest.mark.parametrize(
    ("options", "strategies"),
    slow.after(
        1,
        [
            (SOME, "prewired"),
            (SOME, ",".join(STRATEGIES)),
            (LAST, ",".join(STRATEGIES)),
            (NONE, ",".join(STRATEGIES)),
        ],
    ),
    ids=["some, one strategy", "some", "last", "none"],
)
def test_migrations(options: tuple[str, ...], strategies: str) -> None:
    """By each strategy.

    The frames of the client outside reach a NIC's last pair, if the guest uses only that one; a NIC
    without a ring in use has no downtime that the network sees.
    """
    result = document("migrate", "--strategy", strategies, *options)
    assert result["vm"]["devices"] == USED[options]
    assert [run["strategy"] for run in result["runs"]] == strategies.split(",")
    for run in result["runs"]:
        assert run["outcome"] == "completed"
        assert not any(run["integrity"][name] for name in FAILURES)
        assert bool(run["integrity"]["requests"]) == (options != NONE)
        assert (run["network_gap_ms"] is None) == (options == NONE)


BLK = ("backends.blk", "--num-queues", "4")
NET = ("backends.net", "--num-queues", "8", "--mode", "loopback")
RNG = ("backends.rng",)


@pytest.mark.parametrize("load", slow.all_but({"heavy"}, ["heavy", "light"]))
@pytest.mark.parametrize(
    ("kind", "back_end", "options", "note"),
    slow.after(
        3,
        [
            ("blk", BLK, "--rings 4 --rings-used blk=1,3", "blk0x4 (used: 1,3)"),
            ("net", NET, "--rings 8 --pairs-used 3", "net0x8 (used: 0-5, the others disabled)"),
            ("rng", RNG, "--rings-used rng=none", "rng0x1 (used: none)"),
            ("blk", BLK, "--rings-used blk=3", "blk0x4 (used: 3)"),
            ("blk", BLK, "--rings-used blk=none", "blk0x2 (used: none)"),
            ("net", NET, "--rings 8 --rings-used net=2-3,6-7", "net0x8 (used: 2-3,6-7)"),
            ("net", NET, "--rings-used net=none", "net0x2 (used: none)"),
            ("rng", RNG, "--rings-used rng=0", "rng0"),
        ],
    ),
)
def test_an_attached_vm(
    kind: str,
    back_end: tuple[str, ...],
    options: str,
    note: str,
    load: str,
    tmp_path: Path,
    owned: ExitStack,
) -> None:
    """Each request is completed once, and one without a ring in use has nothing to do."""
    path = tmp_path / "s"
    argv = [*back_end, "--socket-path", str(path)]
    if kind == "blk":
        image = tmp_path / "disk.img"
        with image.open("wb") as file:
            file.truncate(4 << 20)
        argv += ["--blk-file", str(image)]
    program = owned.enter_context(subprocess.Popen([sys.executable, "-m", *argv]))
    owned.callback(program.kill)
    wait_until(path.exists)
    done = emu("attach", f"--{kind}", str(path), *options.split(), "--load", load, "--for", "300ms")
    assert done.returncode == 0, done.stderr
    running, counters = done.stderr.splitlines()
    assert running == f"running (soft): {note} on {path}"
    assert counters.startswith(f"{kind}: 0 ") == ("none" in options)
