"""The monitor beside QEMU's: the members of the results, and the classes of errors."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from emu.errors import CommandError
from emu.orchestrator.signals import SignalWatcher
from emu.qmp.client import MonitorClient
from emu.vm_process.control import Control
from emu.vm_process.monitor import Monitor
from tests.emu.migration.hosts import Host
from tests.peers.programs import need
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.unix_socket import is_listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.peer


def _client(path: Path, name: str, owned: ExitStack) -> MonitorClient:

    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(path))
    client = MonitorClient(sock, name, owned.enter_context(SignalWatcher()))
    owned.callback(client.close)
    client.negotiate(TIMEOUT)
    return client


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[MonitorClient, MonitorClient]]:
    """The monitors of our VM, and of a QEMU without a guest."""
    program = need("qemu-system-x86_64", "qemu-system-x86")
    with ExitStack() as owned:
        theirs = tmp_path / "qemu"
        options = ("-M", "q35,accel=tcg", "-m", "64", "-display", "none", "-nodefaults")
        qemu = subprocess.Popen(
            [program, *options, "-cdrom", "/dev/null", "-qmp", f"unix:{theirs},server=on,wait=off"]
        )
        owned.callback(qemu.wait)
        owned.callback(qemu.kill)
        host = Host("a", tmp_path)
        owned.callback(host.close)
        control = Control(lambda _name, _data: None)
        owned.callback(control.close)
        host.create(control, load="light")
        control.start()
        listener = Monitor(control).listen(tmp_path / "ours")
        owned.callback(listener.close)
        listener.start()
        wait_until(lambda: is_listening(str(theirs)), "QEMU listens")
        yield _client(tmp_path / "ours", "ours", owned), _client(theirs, "QEMU", owned)


def _is_subset(ours: Any, theirs: Any, at: str) -> list[str]:
    """The members that QEMU's value lacks, or that have other types; x- members are ours."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for name, value in ours.items():
            if name.startswith("x-"):
                continue
            if name not in theirs:
                found.append(f"{at}.{name}: QEMU has none")
            else:
                found += _is_subset(value, theirs[name], f"{at}.{name}")
        return found
    if isinstance(ours, list) and isinstance(theirs, list):
        return _is_subset(ours[0], theirs[0], f"{at}[]") if ours and theirs else []
    return [] if type(ours) is type(theirs) else [f"{at}: {ours!r}, QEMU {theirs!r}"]


@pytest.mark.parametrize(
    "command",
    [
        "query-status",
        "query-version",
        "query-cpus-fast",
        "query-dirty-rate",
        "query-migrate-parameters",
        "query-migrate-capabilities",
        "query-commands",
        "query-block",
    ],
)
def test_results_have_members_and_types_of_qemu(
    pair: tuple[MonitorClient, MonitorClient], command: str
) -> None:
    """Ours may lack some."""
    ours, theirs = (client.execute(command, timeout=TIMEOUT) for client in pair)
    if "value" in ours and command == "query-block":
        for disk in ours["value"]:
            disk.pop("inserted")
    assert _is_subset(ours, theirs, command) == []


def test_our_commands_are_qemus(pair: tuple[MonitorClient, MonitorClient]) -> None:
    """But for those with x-."""
    ours, theirs = (
        {entry["name"] for entry in client.execute("query-commands", timeout=TIMEOUT)["value"]}
        for client in pair
    )
    assert {name for name in ours - theirs if not name.startswith("x-")} == set()


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("nope", {}),
        ("device_del", {"id": "none"}),
        ("netdev_del", {"id": "none"}),
        ("chardev-remove", {"id": "none"}),
        ("device_add", {"driver": "none"}),
        ("device_add", {}),
        ("migrate", {}),
        ("migrate", {"uri": "bogus:x"}),
        ("migrate", {"uri": "unix:/x", "bogus": 1}),
        ("migrate-incoming", {"uri": "unix:/x"}),
        ("migrate-set-parameters", {"downtime-limit": -1}),
        ("migrate-set-parameters", {"bogus": 1}),
        (
            "migrate-set-capabilities",
            {"capabilities": [{"capability": "bogus", "state": True}]},
        ),
        ("query-status", {"bogus": 1}),
        ("calc-dirty-rate", {"calc-time": 0}),
        ("calc-dirty-rate", {}),
    ],
)
def test_errors_have_the_classes_of_qemu(
    pair: tuple[MonitorClient, MonitorClient], command: str, arguments: dict[str, object]
) -> None:
    """Whatever the description is."""
    classes = []
    for client in pair:
        with pytest.raises(CommandError) as caught:
            client.execute(command, arguments, timeout=TIMEOUT)
        classes.append(caught.value.error_class)
    assert classes[0] == classes[1]
