"""Two hosts, a switch and a client in network namespaces, and a VM that migrates between them."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.emu.orchestrator.network.spaces import holders, interfaces
from tests.timeouts import PROGRAM_TIMEOUT, TIMEOUT
from tests.waiting import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from emu.orchestrator.network.namespaces import NamespaceNetwork

SMALL = ["--net", "1x4", "--blk", "1x2", "--vcpus", "2", "--memory", "512M", "--accel", "soft"]
MIGRATE = [sys.executable, "-m", "emu.cli", "migrate", "--network", "netns", *SMALL]


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory with a short path, for the sockets of a run that is killed."""
    with tempfile.TemporaryDirectory(prefix="k-") as made:
        yield made


def named() -> set[str]:
    """Network namespaces that have a name."""
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def test_a_vm_migrates_and_answers_pings_before_and_after(
    network: NamespaceNetwork, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    argv = [*MIGRATE, "--strategy", "split,prewired", "--quiet", "--json", str(result)]
    ended = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(result.read_text())
    assert document["network"] == "netns"
    for run in document["runs"]:
        assert run["outcome"] == "completed"
        assert run["network_gap_ms"] > 0  # the client has received replies again
        assert run["integrity"]["lost"] == run["integrity"]["corrupted"] == 0


@pytest.mark.slow
def test_a_killed_run_leaves_no_namespace(network: NamespaceNetwork, directory: str) -> None:
    network.close()
    before, names = interfaces(), named()
    argv = [*MIGRATE, "--repeat", "100"]
    run = subprocess.Popen(
        argv,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TMPDIR": directory},
    )
    assert run.stderr is not None
    for line in run.stderr:
        if re.search("migrate 1/", line):
            break
    started = psutil.Process(run.pid).children(recursive=True)
    links = {str(fd.readlink()) for fd in Path(f"/proc/{run.pid}/fd").iterdir()}
    made = {name for name in links if name.startswith("net:[")}
    assert len(made) == 4
    run.send_signal(signal.SIGKILL)
    run.wait(TIMEOUT)
    run.stderr.close()
    wait_until(lambda: not running(started), "its programs have ended")
    wait_until(lambda: not made & holders(), "the namespaces are gone")
    assert interfaces() == before
    assert named() == names


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes privileges away")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_without_the_privilege_loopback_is_used(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    argv = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *MIGRATE]
    argv += ["--strategy", "split", "--quiet", "--json", str(result)]
    ended = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert ended.returncode == 0
    (line,) = ended.stderr.splitlines()
    assert "a network namespace cannot be created (CAP_SYS_ADMIN)" in line
    assert line.endswith("loopback is used")
    assert json.loads(result.read_text())["network"] == "loopback"
