"""QEMU's client drives two VMs: run, device_del, device_add, migrate, cancel, quit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from qemu.qmp import ExecuteError

from emu.vm_process.control import Control
from emu.vm_process.monitor import COMMANDS, Monitor
from tests.emu.migration.hosts import Host, check_request_log
from tests.emu.vm_process.qmp_clients import Client, unix_chardev
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

    from emu.qmp.listener import MonitorListener
    from emu.qmp.protocol import JsonObject


class Vm:
    """A VM's control and its monitor."""

    def __init__(self, path: Path, host: Host, owned: ExitStack) -> None:
        self.path = path
        self.control = Control(self._emit)
        self.monitor = Monitor(self.control)
        self.listener: MonitorListener = self.monitor.listen(path)
        owned.callback(self.control.close)
        owned.callback(self.listener.close)
        host.create(self.control, path.name)
        self.listener.start()

    def _emit(self, name: str, data: JsonObject) -> None:
        self.monitor.emit(name, data)


@pytest.fixture
def vms(hosts: tuple[Host, Host], owned: ExitStack, tmp_path: Path) -> tuple[Vm, Vm]:
    """A VM that runs, and one that waits for it."""
    source, destination = (
        Vm(tmp_path / name, host, owned) for name, host in zip("ab", hosts, strict=True)
    )
    source.control.start()
    destination.control.prepare()
    return source, destination


async def requests(client: Client, device: str) -> int:
    """Requests and packets that a device has completed."""
    found = await client.do("x-query-devices")
    return int(next(entry["completed"] for entry in found["devices"] if entry["id"] == device))


async def work(client: Client, device: str) -> None:
    """Return when a device has completed more."""
    before = await requests(client, device)
    end = asyncio.get_running_loop().time() + TIMEOUT
    while await requests(client, device) < before + 20:
        assert asyncio.get_running_loop().time() < end, device


def test_the_client_of_qemu_drives_a_vm(
    vms: tuple[Vm, Vm], hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """The VM is stopped, loses and gets devices, is not migrated after all, and ends."""
    source, destination = vms

    async def drive() -> None:
        async with Client(source.path) as here, Client(destination.path) as there:
            assert await here.do("query-status") == {"status": "running", "running": True}
            await here.do("stop")
            await here.event("STOP")
            await here.do("cont")
            await here.event("RESUME")
            await _replace_devices(here, hosts[0])
            await _migrate_and_cancel(here, there)
            await there.do("quit")
            await here.do("quit")
            assert (await here.event("SHUTDOWN"))["data"]["reason"] == "host-qmp-quit"

    async def _replace_devices(here: Client, host: Host) -> None:
        await here.do("device_del", id="blk1")
        deleted = (await here.event("DEVICE_DELETED"))["data"]
        assert deleted == {"device": "blk1", "path": "/machine/peripheral/blk1"}
        with pytest.raises(ExecuteError) as caught:
            await here.do("device_del", id="blk1")
        assert caught.value.error_class == "DeviceNotFound"
        await here.do("device_del", id="net0")
        await here.event("DEVICE_DELETED")
        devices = (await here.do("x-query-devices"))["devices"]
        assert [device["id"] for device in devices] == ["blk0"]
        backend = unix_chardev(host.sockets["blk1"])
        await here.do("chardev-add", id="disk", backend=backend)
        await here.do("device_add", driver="vhost-user-blk-pci", id="data", chardev="disk")
        await work(here, "data")
        await here.do("netdev_del", id="netdev-net0")
        await here.do("netdev_add", type="vhost-user", id="n", chardev="char-net0", queues=2)
        await here.do("device_add", driver="virtio-net-pci", id="nic", netdev="n", mq=True)
        await work(here, "nic")

    async def _migrate_and_cancel(here: Client, there: Client) -> None:
        uri = f"unix:{tmp_path / 'stream'}"
        await there.do("migrate-incoming", uri=uri)
        assert (await there.do("query-status"))["status"] == "inmigrate"
        await here.do("migrate-set-parameters", max_bandwidth=1 << 20)
        await here.do("migrate", uri=uri)
        for status in ("setup", "active"):
            assert (await here.event("MIGRATION"))["data"] == {"status": status}
        with pytest.raises(ExecuteError, match="not possible while migrating"):
            await here.do("device_del", id="blk0")
        await here.do("migrate_cancel")
        assert await here.migration_ends() == "cancelled"
        assert (await here.do("query-migrate"))["status"] == "cancelled"
        assert await there.migration_ends() == "failed"
        await work(here, "blk0")

    asyncio.run(drive())
    check_request_log(source.control.vm)


def test_a_migration_over_qmp(vms: tuple[Vm, Vm], tmp_path: Path) -> None:
    """The source ends in postmigrate, and has the phases of both sides."""
    source, destination = vms

    async def drive() -> None:
        async with Client(source.path) as here, Client(destination.path) as there:
            for client in (here, there):
                await client.do("device_del", id="blk0")
                await client.event("DEVICE_DELETED")
            uri = f"unix:{tmp_path / 'stream'}"
            await there.do("migrate-incoming", uri=uri)
            await here.do(
                "migrate-set-capabilities",
                capabilities=[
                    {"capability": "multifd", "state": True},
                    {"capability": "events", "state": True},
                ],
            )
            await here.do("migrate", uri=uri, x_strategy="split")
            assert (await here.event("MIGRATION_PASS"))["data"] == {"pass": 1}
            assert await here.migration_ends() == "completed"
            assert await there.migration_ends() == "completed"
            assert (await here.do("query-status"))["status"] == "postmigrate"
            assert (await there.do("query-status"))["status"] == "running"
            phases = await here.do("x-downtime-phases")
            assert phases["downtime_ms"] > 0
            names = {phase["phase"] for phase in phases["phases"]}
            assert {"src.get_vring_base", "dst.start_vrings"} <= names
            assert (await there.do("x-downtime-phases"))["downtime_ms"] == phases["downtime_ms"]
            with pytest.raises(ExecuteError, match="runs at the destination"):
                await here.do("cont")
            await there.do("device_add", driver="vhost-user-blk", chardev="char-blk0", id="blk0")
            await work(there, "blk0")

    asyncio.run(drive())
    check_request_log(destination.control.vm)


def test_a_destination_with_other_devices_is_refused_by_their_names(
    vms: tuple[Vm, Vm], tmp_path: Path
) -> None:
    """The VM runs on at the source."""
    source, destination = vms

    async def drive() -> None:
        async with Client(source.path) as here, Client(destination.path) as there:
            await here.do("device_del", id="blk0")
            await here.event("DEVICE_DELETED")
            uri = f"unix:{tmp_path / 'stream'}"
            await there.do("migrate-incoming", uri=uri)
            await here.do("migrate", uri=uri)
            assert await here.migration_ends() == "failed"
            why = (await here.do("query-migrate"))["error-desc"]
            assert "blk0x2 at the destination only" in why
            await work(here, "blk1")

    asyncio.run(drive())
    check_request_log(source.control.vm)


def test_each_command_has_a_handler(vms: tuple[Vm, Vm]) -> None:
    """And the names are sorted nowhere: the table's order is by subject."""
    handlers = vms[0].monitor.handlers()
    assert [*handlers] == [row.name for row in COMMANDS]
    assert all(callable(handler) for handler in handlers.values())


def test_events_that_are_switched_off_are_not_sent(vms: tuple[Vm, Vm], tmp_path: Path) -> None:
    """MIGRATION and MIGRATION_PASS, by the capability; others are always sent."""
    source, _ = vms

    async def drive() -> None:
        async with Client(source.path) as client:
            off = [{"capability": "events", "state": False}]
            await client.do("migrate-set-capabilities", capabilities=off)
            await client.do("migrate", uri=f"unix:{tmp_path / 'none'}")
            while (await client.do("query-migrate"))["status"] != "failed":
                """It ends at once: no process listens there."""
            await client.do("system_reset")
            event = await client.event("MIGRATION", "RESET")
            assert event["data"] == {"guest": False, "reason": "host-qmp-system-reset"}

    asyncio.run(drive())
