"""The RFC's 40 devices with 608 rings through one tap, with this project's endpoints."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.emu.runs import EMU, Run
from tests.timeouts import SCALE
from tests.waiting import wait_until
from vhost_user.unix_socket import is_listening

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

LIMIT = 400 * SCALE
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT + 100 * SCALE)]


class Group(NamedTuple):
    """The devices of a class."""

    name: str
    number: int
    rings: int

    def sockets(self, side: str, folder: Path) -> list[str]:
        """The back-ends' sockets."""
        return [str(folder / f"{side}-{self.name}{at}.sock") for at in range(self.number)]

    def tapped(self, side: str, folder: Path) -> list[str]:
        """The tap's."""
        return [path.replace(f"/{side}-", f"/tap/{side}-") for path in self.sockets(side, folder)]


GROUPS = (Group("net", 16, 32), Group("blk", 24, 4))
DEVICES = sum(group.number for group in GROUPS)
RINGS = sum(group.number * group.rings for group in GROUPS)
STRATEGIES = ("qemu-2021", "prewired")


def serve(group: Group, side: str, folder: Path, owned: ExitStack) -> None:
    """One program for all devices of the class; returns when it listens."""
    argv = [sys.executable, "-m", f"backends.{group.name}"]
    for number, path in enumerate(group.sockets(side, folder)):
        argv += ["--socket-path", path]
        if group.name == "blk":
            image = folder / f"{number}.img"
            with image.open("ab") as file:
                file.truncate(64 << 20)
            argv += ["--blk-file", str(image)]
    argv += ["--num-queues", str(group.rings)]
    program = subprocess.Popen(argv)
    owned.callback(program.wait)
    owned.callback(program.terminate)
    wait_until(lambda: all(map(is_listening, group.sockets(side, folder))), "the back-ends listen")


def test_every_message_of_a_migration_is_in_the_table(tmp_path: Path, owned: ExitStack) -> None:
    """In lock-step and in flight; no request of the guest is lost, and no rule is broken."""
    (tmp_path / "tap").mkdir()
    pairs, devices = [], []
    for group in GROUPS:
        for side in ("A", "B"):
            serve(group, side, tmp_path, owned)
            ends = zip(group.tapped(side, tmp_path), group.sockets(side, tmp_path), strict=True)
            pairs += [word for near, far in ends for word in ("--pair", f"{near}:{far}")]
            option = {"A": "src", "B": "dst"}[side]
            for path in group.tapped(side, tmp_path):
                devices += [f"--{option}-{group.name}", path]
    log, result = tmp_path / "tap.jsonl", tmp_path / "migrate.json"
    tapped = Run(tmp_path / "tap.log", ["tap", *pairs, "--json", str(log)])
    owned.callback(tapped.close)
    tapped.await_line("listening at", count=2 * DEVICES)
    shapes = [
        word for group in GROUPS for word in (f"--{group.name}", f"{group.number}x{group.rings}")
    ]
    done = subprocess.run(
        [
            *(*EMU, "migrate", *shapes, "--vcpus", "4", "--memory", "1G", "--accel", "soft"),
            *("--scratch", *devices, "--strategy", ",".join(STRATEGIES), "--json", str(result)),
            *("--deadline", "60s"),
        ],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    tapped.interrupt()
    ended = tapped.end()
    assert ended.status == 0
    assert "lines are missing" not in ended.err
    for run in json.loads(result.read_text())["runs"]:
        found = run["integrity"]
        assert (found["lost"], found["duplicated"], found["corrupted"]) == (0, 0, 0)
    events = [json.loads(line) for line in log.read_text().splitlines()]
    _check(events)


def _check(events: list[dict[str, Any]]) -> None:
    messages = [each for each in events if each["event"] in ("request", "reply")]
    assert not [each for each in messages if "violations" in each or "error" in each]
    due = [each for each in messages if each.get("reply_due")]
    assert len([each for each in messages if each["event"] == "reply"]) == len(due)
    starts = [each for each in events if each["event"] == "start" and each["migration"]]
    stops = {each["time_ns"]: each for each in events if each["event"] == "stop"}
    complete = [(stops[start["since_ns"]], start) for start in starts if rings_of(start) == RINGS]
    assert len(complete) == len(STRATEGIES)
    for stop, start in complete:
        (row,) = stop["rows"]
        assert (row["messages"], rings_of(stop)) == (RINGS, RINGS)
        assert sum(len(device["rings"]) for device in row["devices"]) == RINGS
        assert len(row["devices"]) == DEVICES
        (started,) = [row for row in start["rows"] if row["row"] == "start vrings"]
        assert len(started["devices"]) == DEVICES
        assert started["messages"] >= 3 * RINGS
    # `prewired` has sent the rest ahead, for the destination's devices.
    (ahead,) = [each for each in events if each["event"] == "start" and each["ahead"]]
    assert (rings_of(ahead), ahead["migration"], ahead["since_ns"]) == (RINGS, False, None)
    assert {row["row"]: row["messages"] for row in ahead["rows"]}["set mem table"] >= DEVICES
    first, second = (start["rows"][-1]["messages"] for _, start in complete)
    assert first > second
    assert [stop["rows"][0]["at_once"] > 1 for stop, _ in complete] == [False, True]
    assert [bool(stop["what_if"]) for stop, _ in complete] == [True, False]


def rings_of(transition: dict[str, Any]) -> int:
    """How many rings it has stopped or started."""
    rings: int = transition["rings"]
    return rings
