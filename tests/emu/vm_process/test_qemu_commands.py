"""The results of QEMU's commands, and their arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from emu.errors import EmuError, MonitorError
from emu.migration.endpoint import StreamSecurity
from emu.orchestrator.migration_outcome import ENDED
from emu.qmp.server import Command
from emu.vm_process.control import Control
from emu.vm_process.monitor import Monitor
from tests.emu.migration.certificates import Authority
from tests.emu.migration.hosts import SPEC, Host, await_requests
from tests.emu.migration.resolver import late_resolver
from tests.waiting import wait_until

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.qmp.server import Handler


@pytest.fixture
def control(hosts: tuple[Host, Host], owned: ExitStack) -> Control:
    """The control of a VM under load."""
    made = Control(lambda _name, _data: None)
    owned.callback(made.close)
    hosts[0].create(made)
    made.start()
    await_requests(made.vm)
    return made


@pytest.fixture
def handlers(control: Control) -> dict[str, Handler]:
    """The commands of a VM."""
    return Monitor(control).handlers()


def do(handlers: dict[str, Handler], name: str, **arguments: object) -> Any:
    """Execute a command, with its arguments checked as the server does."""
    return Command(handlers[name])({key.replace("_", "-"): v for key, v in arguments.items()})


def test_what_is_there(handlers: dict[str, Handler], hosts: tuple[Host, Host]) -> None:
    """vCPUs, disks and sockets."""
    cpus = do(handlers, "query-cpus-fast")
    assert [cpu["cpu-index"] for cpu in cpus] == list(range(SPEC.vcpus))
    assert len({cpu["thread-id"] for cpu in cpus}) == SPEC.vcpus
    disks = do(handlers, "query-block")
    assert [disk["qdev"] for disk in disks] == [f"/machine/peripheral/blk{n}" for n in range(2)]
    assert disks[0]["inserted"]["file"] == hosts[0].sockets["blk0"]
    assert disks[0]["inserted"]["image"]["virtual-size"] == 16 << 20
    assert {entry["label"]: entry["filename"] for entry in do(handlers, "query-chardev")} == {
        f"char-{name}": f"unix:{path}" for name, path in hosts[0].sockets.items()
    }


def test_devices_with_their_rings(handlers: dict[str, Handler], control: Control) -> None:
    """The states, and what the driver has counted."""
    net, disk, _ = do(handlers, "x-query-devices")["devices"]
    assert net["state"] == disk["state"] == "running"
    assert (net["class"], len(net["rings"]), len(net["queues"])) == ("net", 4, 2)
    assert (disk["class"], len(disk["rings"]), len(disk["queues"])) == ("blk", 2, 2)
    assert {ring["state"] for ring in (*net["rings"], *disk["rings"])} == {"running"}
    assert disk["completed"] > 0
    assert disk["kicks"] > 0
    assert disk["calls"] > 0
    assert disk["host-notifiers"]
    assert disk["inflight"]
    do(handlers, "stop")
    found = do(handlers, "x-query-devices")["devices"]
    assert {device["state"] for device in found} == {"stopped"}
    do(handlers, "cont")


def test_before_the_first_migration(handlers: dict[str, Handler]) -> None:
    """As in QEMU; there are no phases then."""
    assert do(handlers, "query-migrate") == {}
    assert do(handlers, "query-dirty-rate") == {
        "status": "unstarted",
        "start-time": 0,
        "calc-time": 0,
        "sample-pages": 0,
        "mode": "dirty-bitmap",
    }
    with pytest.raises(EmuError, match="has not taken part in a migration"):
        do(handlers, "x-downtime-phases")
    with pytest.raises(EmuError, match="--incoming defer"):
        do(handlers, "migrate-incoming", uri="unix:/x")


UNIX = {"transport": "socket", "type": "unix", "path": "/no/such/socket"}
INET = {"transport": "socket", "type": "inet", "host": "::1", "port": "1"}


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"uri": "exec:cat"},
        {"uri": "unix:/x", "channels": []},
        {"uri": "unix:/x", "blk": True},
        {"uri": "unix:/x", "resume": True},
        {"uri": "unix:/x", "x_strategy": "none"},
        {"uri": "unix:/x", "x_options": {"threads": "many"}},
        {"channels": []},
        {"channels": [{"channel-type": "main", "addr": UNIX}] * 2},
        {"channels": [{"channel-type": "cpr", "addr": UNIX}]},
        {"channels": [{"channel-type": "main", "addr": {"transport": "exec", "type": "x"}}]},
    ],
)
def test_a_migration_that_cannot_begin(
    handlers: dict[str, Handler], arguments: dict[str, object]
) -> None:
    """An error, and no migration."""
    with pytest.raises(EmuError):
        do(handlers, "migrate", **arguments)
    assert do(handlers, "query-migrate") == {}


@pytest.mark.parametrize("address", [UNIX, INET])
def test_a_migration_by_channels(handlers: dict[str, Handler], address: dict[str, str]) -> None:
    """As newer QEMU writes it; nothing listens there."""
    do(handlers, "migrate", channels=[{"channel-type": "main", "addr": address}], detach=True)
    assert do(handlers, "query-migrate")["status"] in ("setup", "active", "failed")


@pytest.mark.parametrize(
    "arguments",
    [
        {"calc_time": 1, "mode": "page-sampling"},
        {"calc_time": 1, "sample_pages": 512},
        {"calc_time": 1, "calc_time_unit": "millisecond"},
        {"calc_time": 0},
        {"calc_time": 61},
    ],
)
def test_a_measurement_that_is_not_possible(
    handlers: dict[str, Handler], arguments: dict[str, object]
) -> None:
    """The only mode is by the devices' dirty log."""
    with pytest.raises((EmuError, MonitorError)):
        do(handlers, "calc-dirty-rate", **arguments)


@pytest.fixture
def waiting(hosts: tuple[Host, Host], owned: ExitStack) -> Control:
    """The control of a VM that is to arrive."""
    made = Control(lambda _name, _data: None)
    owned.callback(made.close)
    hosts[1].create(made, "B")
    made.prepare()
    return made


REMOTE = {"transport": "socket", "type": "inet", "host": "192.0.2.1", "port": "1"}


def test_memory_does_not_cross_a_network_in_the_clear(
    handlers: dict[str, Handler], waiting: Control
) -> None:
    """As with the options: without TLS the address has to be of this host, or --insecure given."""
    clear = "the VM's memory would go over the network in the clear"
    with pytest.raises(EmuError, match=clear):
        do(handlers, "migrate", uri="tcp:192.0.2.1:1")
    with pytest.raises(EmuError, match=clear):
        do(handlers, "migrate", channels=[{"channel-type": "main", "addr": REMOTE}])
    with pytest.raises(EmuError, match=clear):
        do(Monitor(waiting).handlers(), "migrate-incoming", uri="tcp:0.0.0.0:0")
    insecure = Monitor(waiting, security=StreamSecurity(None, insecure=True))
    do(insecure.handlers(), "migrate-incoming", uri="tcp:0.0.0.0:0")
    assert do(insecure.handlers(), "query-migrate")["status"] == "setup"


def test_the_name_of_a_host_is_resolved_by_the_migration(
    handlers: dict[str, Handler], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command returns before, and the name may not be that of another host."""
    answered = late_resolver(monkeypatch, "192.0.2.1")
    do(handlers, "migrate", uri="tcp:host.invalid:4444")
    assert do(handlers, "query-migrate")["status"] == "setup"
    answered.set()
    wait_until(lambda: do(handlers, "query-migrate")["status"] in ENDED, "the migration ends")
    answer = do(handlers, "query-migrate")
    assert (answer["status"], answer["error-desc"]) == (
        "failed",
        "connect: tcp:host.invalid:4444 is not loopback",
    )


@pytest.mark.parametrize("tls", [False, True])
def test_tls_of_a_command_is_that_of_its_migrations(
    control: Control, waiting: Control, tmp_path: Path, *, tls: bool
) -> None:
    """A destination with TLS takes no source without it."""
    ca = Authority(tmp_path)
    uri = f"unix:{tmp_path / 'stream'}"
    destination = Monitor(waiting, security=StreamSecurity(ca.credentials("b"))).handlers()
    do(destination, "migrate-incoming", uri=uri)
    security = StreamSecurity(ca.credentials("a") if tls else None)
    source = Monitor(control, security=security).handlers()
    do(source, "migrate", uri=uri)
    wait_until(lambda: do(source, "query-migrate")["status"] in ENDED, "the migration ends")
    assert do(source, "query-migrate")["status"] == ("completed" if tls else "failed")
