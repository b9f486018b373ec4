"""Two hosts, a switch and a client in network namespaces, and a VM that migrates between them."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.guest.arp_icmp import GUEST_ADDRESS, answer, gratuitous_arp
from emu.guest.frames import nic_mac
from emu.orchestrator.network import namespaces
from emu.orchestrator.network.echo import CLIENT_MAC
from emu.orchestrator.network.namespaces import NamespaceNetwork, NetworkUnavailableError
from emu.orchestrator.network.ping import PingClient
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

SMALL = ["--net", "1x4", "--blk", "1x2", "--vcpus", "2", "--memory", "512M", "--accel", "soft"]
#: Ethernet types.
IPV4, ARP = 0x0800, 0x0806
MIGRATE = [sys.executable, "-m", "emu.cli", "migrate", "--network", "netns", *SMALL]


@pytest.fixture
def network() -> Iterator[NamespaceNetwork]:
    try:
        made = NamespaceNetwork.build()
    except NetworkUnavailableError as error:
        pytest.skip(f"no network of namespaces: {error}")
    yield made
    made.close()


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory with a short path, for the sockets of a run that is killed."""
    with tempfile.TemporaryDirectory(prefix="k-") as made:
        yield made


def interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


def named() -> set[str]:
    """Network namespaces that have a name."""
    folder = Path("/run/netns")
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def holders() -> set[str]:
    """Network namespaces that any process is in, or has a descriptor of."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found.add(str((process / "ns/net").readlink()))
            found |= {str(fd.readlink()) for fd in (process / "fd").iterdir()}
    return {name for name in found if name.startswith("net:[")}


def test_the_network_is_invisible_outside_of_its_namespaces(network: NamespaceNetwork) -> None:
    before = interfaces()
    assert len(network.taps) == 2
    assert not {"uplink", "bridge", "client", "tap0"} & before
    kept = {str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in network._fds}
    spaces = {name for name in kept if name.startswith("net:[")}
    assert len(spaces) == 4
    network.close()
    assert not spaces & holders()
    assert interfaces() == before


class Station:
    """Has the guest's addresses, at the TAP of one host.

    Attributes:
        on: whether it answers.
        seen: the Ethernet types of the client's frames that came while it did.
    """

    def __init__(self, tap: int, *, on: bool) -> None:
        self.on = on
        self.seen: list[int] = []
        self._tap = tap
        self._wake, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            ready, _, _ = select.select([self._tap, self._wake], [], [])
            if self._wake in ready:
                return
            frame = os.read(self._tap, 2048)
            if not self.on:
                continue
            if frame[6:12] == CLIENT_MAC:  # not the bridges' own multicasts
                self.seen.append(int.from_bytes(frame[12:14], "big"))
            reply = answer(frame, nic_mac(0), GUEST_ADDRESS)
            if reply is not None:
                os.write(self._tap, reply)

    def close(self) -> None:
        os.close(self._stopper)
        self._thread.join(TIMEOUT)
        os.close(self._wake)


def await_answers(client: PingClient, count: int) -> None:
    least = client.counts().answered + count
    wait_until(lambda: client.counts().answered >= least, "pings are answered")


@pytest.mark.parametrize("announced", [True, False])
def test_without_an_announcement_the_bridges_send_to_the_old_host(
    network: NamespaceNetwork, announced: bool
) -> None:
    """The client's packets arrive only after its next ARP request."""
    client = PingClient(network)
    before, after = (
        Station(tap, on=on) for tap, on in zip(network.taps, (True, False), strict=True)
    )
    try:
        client.start()
        await_answers(client, 20)
        before.close()
        after.on = True
        if announced:
            os.write(network.taps[1], gratuitous_arp(nic_mac(0), GUEST_ADDRESS))
        await_answers(client, 20)
    finally:
        after.close()
        client.stop()
    assert after.seen[0] == (IPV4 if announced else ARP)
    assert client.counts().duplicated == 0


def test_a_vm_migrates_and_answers_pings_before_and_after(
    network: NamespaceNetwork, tmp_path: Path
) -> None:
    result = tmp_path / "result.json"
    argv = [*MIGRATE, "--strategy", "split,prewired", "--quiet", "--json", str(result)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    document = json.loads(result.read_text())
    assert document["network"] == "netns"
    for run in document["runs"]:
        assert run["outcome"] == "completed"
        assert run["network_gap_ms"] > 0  # the client has received replies again
        assert run["integrity"]["lost"] == run["integrity"]["corrupted"] == 0


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
    assert not psutil.wait_procs(started, timeout=TIMEOUT)[1]
    wait_until(lambda: not made & holders(), "the namespaces are gone")
    assert interfaces() == before
    assert named() == names


def test_the_reason_is_printed_if_the_network_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\necho no such module >&2\n")
    silent.chmod(0o755)
    monkeypatch.setattr(namespaces, "PYTHON", (str(silent),))
    with pytest.raises(NetworkUnavailableError, match="ended unexpectedly: no such module"):
        NamespaceNetwork.build()


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes privileges away")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_without_the_privilege_loopback_is_used(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    argv = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all", *MIGRATE]
    argv += ["--strategy", "split", "--quiet", "--json", str(result)]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert ended.returncode == 0
    (line,) = ended.stderr.splitlines()
    assert "a network namespace cannot be created (CAP_SYS_ADMIN)" in line
    assert line.endswith("loopback is used")
    assert json.loads(result.read_text())["network"] == "loopback"
