"""Ids, chardevs and netdevs, and what is refused; the rest is in test_monitor."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

import pytest

from emu.errors import DeviceNotFoundError, EmuError
from emu.vm_process import hotplug
from emu.vm_process.hotplug import Hotplug
from tests.emu.migration.hosts import await_disk
from tests.emu.vm_process.qmp_clients import unix_chardev
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import DeadlineError, VhostUserError

if TYPE_CHECKING:
    from contextlib import ExitStack

    from emu.qmp.protocol import JsonObject
    from emu.vm.vm import Vm
    from tests.emu.migration.hosts import Host

Events = queue.SimpleQueue[tuple[str, "JsonObject"]]


@pytest.fixture
def events() -> Events:
    """The events that were sent."""
    return queue.SimpleQueue()


@pytest.fixture
def plugs(vm: Vm, events: Events, owned: ExitStack) -> Hotplug:
    """The devices of a VM under load."""
    made = Hotplug(vm, lambda name, data: events.put((name, data)))
    owned.callback(made.close)
    return made


def delete(plugs: Hotplug, events: Events, name: str) -> None:
    """Unplug a device, and wait for the event."""
    plugs.device_del(name, arriving=False)
    assert events.get(timeout=TIMEOUT)[0] == "DEVICE_DELETED"
    plugs.settle()


def test_a_device_goes_and_comes_under_another_id(plugs: Hotplug, events: Events, vm: Vm) -> None:
    """Its chardev is free in between; the path of an object is accepted as its id."""
    plugs.device_del("/machine/peripheral/blk1", arriving=False)
    data = {"device": "blk1", "path": "/machine/peripheral/blk1"}
    assert events.get(timeout=TIMEOUT) == ("DEVICE_DELETED", data)
    with pytest.raises(DeviceNotFoundError):
        plugs.device_del("blk1", arriving=False)
    open_ = {entry["label"]: entry["frontend-open"] for entry in plugs.query_chardev()}
    assert open_ == {"char-net0": True, "char-blk0": True, "char-blk1": False}
    properties = {"driver": "vhost-user-blk-pci", "chardev": "char-blk1", "id": "d", "bus": "pci.0"}
    plugs.device_add({**properties, "num-queues": "2"}, arriving=False)
    assert plugs.id_of("blk1") == "d"
    assert "blk1" in {device.name for device in vm.devices}
    assert not plugs.replaced
    delete(plugs, events, "d")


def test_another_back_end_is_remembered(
    plugs: Hotplug, events: Events, hosts: tuple[Host, Host]
) -> None:
    """Then the counters of the back-ends are not the guest's."""
    delete(plugs, events, "blk0")
    plugs.chardev_add("c", unix_chardev(hosts[1].sockets["blk0"]))
    plugs.device_add({"driver": "vhost-user-blk-pci", "chardev": "c"}, arriving=False)
    assert plugs.replaced
    with pytest.raises(EmuError, match="is busy"):
        plugs.chardev_remove("c")
    delete(plugs, events, "blk0")
    plugs.chardev_remove("c")
    with pytest.raises(EmuError, match="not found"):
        plugs.chardev_remove("c")


def test_a_guest_that_does_not_release_the_device(
    plugs: Hotplug,
    events: Events,
    vm: Vm,
    hosts: tuple[Host, Host],
    owned: ExitStack,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """QEMU's event for that; the device works on."""
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", 0.2)
    release = hosts[0].hold("blk1")
    owned.callback(release.set)
    wait_until(lambda: vm._not_completed(vm.devices[2]), "a request is in flight")
    plugs.device_del("blk1", arriving=False)
    name, data = events.get(timeout=TIMEOUT)
    assert name == "DEVICE_UNPLUG_GUEST_ERROR"
    assert data["device"] == "blk1"
    assert "still in flight" in data["x-reason"]
    release.set()
    plugs.settle()
    monkeypatch.setattr(hotplug, "UNPLUG_TIMEOUT", TIMEOUT)
    delete(plugs, events, "blk1")


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({}, "'driver' is missing"),
        ({"driver": "e1000"}, "'e1000' is not a valid device model name"),
        ({"driver": "vhost-user-blk-pci"}, "chardev is mandatory"),
        ({"driver": "vhost-user-blk-pci", "chardev": "none"}, "can't find value 'none'"),
        ({"driver": "vhost-user-blk-pci", "chardev": "char-net0"}, "in use by net0"),
        ({"driver": "vhost-user-blk-pci", "chardev": 1}, "expected: string"),
        ({"driver": "vhost-user-blk-pci", "chardev": "c", "serial": "x"}, "serial' not found"),
        ({"driver": "vhost-user-blk-pci", "chardev": "c", "id": "blk0"}, "Duplicate device ID"),
        ({"driver": "vhost-user-blk-pci", "chardev": "c", "num-queues": 3}, "has 2 rings"),
        ({"driver": "vhost-user-rng-pci", "chardev": "c"}, "no slot is empty"),
        ({"driver": "virtio-net-pci"}, "netdev is mandatory"),
        ({"driver": "virtio-net-pci", "netdev": "none"}, "can't find value 'none'"),
    ],
)
def test_a_device_that_cannot_be_added(
    plugs: Hotplug,
    events: Events,
    hosts: tuple[Host, Host],
    properties: dict[str, object],
    text: str,
) -> None:
    """The texts name what is wrong."""
    delete(plugs, events, "blk1")
    plugs.chardev_add("c", unix_chardev(hosts[1].sockets["blk1"]))
    with pytest.raises(EmuError, match=text):
        plugs.device_add(properties, arriving=False)


def test_chardevs_that_cannot_be_added(plugs: Hotplug, hosts: tuple[Host, Host]) -> None:
    """Other kinds, a socket to listen on, and one where nothing listens."""
    path = hosts[1].sockets["blk0"]
    listens = unix_chardev(path)
    data = listens["data"]
    assert isinstance(data, dict)
    del data["server"]
    inet = {"type": "socket", "data": {"addr": {"type": "inet", "data": {}}, "server": False}}
    for backend, text in (
        (listens, "set 'server' to false"),
        (inet, "only chardevs of the type socket"),
        ({"type": "null", "data": {}}, "Invalid parameter"),
        (unix_chardev("/no/such/socket"), "Failed to add chardev 'c'"),
    ):
        with pytest.raises(EmuError, match=text):
            plugs.chardev_add("c", backend)
    with pytest.raises(EmuError, match="already exists"):
        plugs.chardev_add("char-blk0", unix_chardev(path))


def test_netdevs(plugs: Hotplug, events: Events) -> None:
    """A NIC keeps its netdev until that is removed."""
    with pytest.raises(EmuError, match="in use by net0"):
        plugs.netdev_del("netdev-net0")
    with pytest.raises(DeviceNotFoundError):
        plugs.netdev_del("none")
    with pytest.raises(EmuError, match="only vhost-user"):
        plugs.netdev_add("tap", "n", "char-net0")
    delete(plugs, events, "net0")
    plugs.device_add({"driver": "virtio-net-pci", "netdev": "netdev-net0"}, arriving=False)
    delete(plugs, events, "net0")
    plugs.netdev_del("netdev-net0")
    plugs.netdev_add("vhost-user", "n", "char-net0")
    with pytest.raises(EmuError, match="Duplicate ID"):
        plugs.netdev_add("vhost-user", "n", "char-net0")
    plugs.device_add({"driver": "virtio-net-pci", "netdev": "n", "id": "nic"}, arriving=False)


def test_a_stopped_vm_unplugs_nothing(plugs: Hotplug, vm: Vm) -> None:
    """Its guest cannot release a device."""
    vm.pause_vcpus()
    with pytest.raises(EmuError, match="cont first"):
        plugs.device_del("blk0", arriving=False)
    vm.resume_vcpus()


@pytest.mark.slow
def test_a_back_end_that_fails_leaves_the_slot_empty(
    plugs: Hotplug, events: Events, hosts: tuple[Host, Host]
) -> None:
    """Another attempt can follow."""
    delete(plugs, events, "blk1")
    hosts[0].kill("blk1")
    properties = {"driver": "vhost-user-blk-pci", "chardev": "char-blk1"}
    with pytest.raises(VhostUserError):
        plugs.device_add(properties, arriving=False)
    hosts[0].restart("blk1")
    plugs.device_add(properties, arriving=False)


def test_a_device_that_cannot_be_unplugged_works_on(
    plugs: Hotplug, events: Events, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here another device is being reconnected, which takes too long."""

    def pause() -> None:
        raise DeadlineError("the attempt to reconnect a device", 30.0)

    with monkeypatch.context() as patched:
        patched.setattr(vm.reconnect, "pause", pause)
        plugs.device_del("blk1", arriving=False)
        assert events.get(timeout=TIMEOUT)[0] == "DEVICE_UNPLUG_GUEST_ERROR"
        plugs.settle()
    await_disk(vm, 1, 0)
    delete(plugs, events, "blk1")


def test_a_device_is_unplugged_once(
    plugs: Hotplug, events: Events, hosts: tuple[Host, Host], vm: Vm, owned: ExitStack
) -> None:
    """QEMU refuses the second attempt as well, and names the device."""
    release = hosts[0].hold("blk1")
    owned.callback(release.set)
    wait_until(lambda: vm._not_completed(vm.devices[2]), "a request is in flight")
    plugs.device_del("blk1", arriving=False)
    for name in ("blk1", "/machine/peripheral/blk1"):
        with pytest.raises(EmuError, match=f"{name} is already in the process of unplug"):
            plugs.refuse_second_unplug(name)
    plugs.refuse_second_unplug("blk0")
    release.set()
    assert events.get(timeout=TIMEOUT)[0] == "DEVICE_DELETED"
    plugs.settle()
    plugs.refuse_second_unplug("blk1")


@pytest.mark.parametrize("text", ["", "1disk", "a/b", "a b", "é"])
def test_an_id_is_an_identifier(plugs: Hotplug, events: Events, vm: Vm, text: str) -> None:
    """A device with another one could not be named later."""
    delete(plugs, events, "blk1")
    expected = "Parameter 'id' expects an identifier"
    with pytest.raises(EmuError, match=expected):
        plugs.chardev_add(text, unix_chardev(vm.backends["blk1"]))
    with pytest.raises(EmuError, match=expected):
        plugs.netdev_add("vhost-user", text, "char-blk1")
    properties = {"driver": "vhost-user-blk-pci", "chardev": "char-blk1", "id": text}
    with pytest.raises(EmuError, match=expected):
        plugs.device_add(properties, arriving=False)
