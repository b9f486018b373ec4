"""Devices that come and go while the VM runs: chardev-add, netdev_add, device_add, device_del.

The devices that a VM starts with have chardevs ``char-NAME`` and, for NICs, netdevs
``netdev-NAME``; their ids are their names. A device that is added goes to an empty slot of its
class.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.config.device_kinds import KINDS, load
from emu.errors import DeviceNotFoundError, EmuError
from emu.json_input import JsonInputError, Members, check
from emu.vm.hotplug import plug, unplug
from vhost_user.errors import VhostUserError
from vhost_user.frontend import FrontendConnection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from devices.device import BackEnd, VhostDevice
    from emu.qmp.protocol import EventSink, JsonObject
    from emu.vm.vm import Vm

#: Seconds for the guest to release a device, and for a back-end to listen.
UNPLUG_TIMEOUT, CONNECT_TIMEOUT = 10.0, 5.0
#: The class of each device model; ``-pci`` may be left out.
DRIVERS = {
    "vhost-user-blk-pci": "blk",
    "vhost-user-blk": "blk",
    "vhost-user-rng-pci": "rng",
    "vhost-user-rng": "rng",
    "virtio-net-pci": "net",
    "virtio-net": "net",
}
#: Properties of device_add that are checked, and those that have no effect here.
_PROPERTIES = {"driver": str, "id": str, "chardev": str, "netdev": str, "num-queues": int}
_WITHOUT_EFFECT = frozenset({"bus", "addr", "mq", "vectors", "bootindex", "disable-legacy"})
_SOCKET = Members(
    {
        "type": str,
        "data": Members(
            {"addr": Members({"type": str, "data": Members({}, {"path": str})})},
            {"server": bool, "wait": bool, "reconnect": int},
        ),
    }
)


@dataclass
class Chardev:
    """The socket of a back-end.

    Attributes:
        path: of the socket.
        connection: open, and not used yet; None while a device uses it, or after it.
        user: the id of its device, or of its netdev; empty for none.
    """

    path: str
    connection: FrontendConnection | None = None
    user: str = ""


class Hotplug:
    """The devices of one VM, by their ids.

    Args:
        vm: the VM.
        emit: sends DEVICE_DELETED, DEVICE_UNPLUG_GUEST_ERROR.
    """

    def __init__(self, vm: Vm, emit: EventSink) -> None:
        self._vm = vm
        self._emit = emit
        self._ids = {spec.name: spec.name for spec in vm.spec.present}
        self._chardevs = {
            f"char-{name}": Chardev(vm.backends[name], user=name) for name in self._ids
        }
        # The chardev of each netdev.
        self._netdevs: dict[str, str] = {}
        for spec in vm.spec.present:
            if spec.device_class == "net":
                self._netdevs[f"netdev-{spec.name}"] = f"char-{spec.name}"
        self._features = {device.name: device.acked_features for device in vm.devices}
        self._original = dict(vm.backends)
        #: Whether a device has, or had, another back-end than the VM has started with.
        self.replaced = False
        self._unplugging = ""
        self._thread: threading.Thread | None = None

    # -- names

    def id_of(self, name: str) -> str:
        """The id of the device in a slot, by the slot's name."""
        return next((key for key, slot in self._ids.items() if slot == name), name)

    def has_original(self, name: str) -> bool:
        """Whether the device in a slot has the back-end that the VM has started with.

        An empty slot counts as its last device.
        """
        return self._vm.backends.get(name) == self._original.get(name)

    def refuse_second_unplug(self, device_id: str) -> None:
        """Refuse device_del for a device that the guest is being asked to release, as QEMU does.

        Raises:
            EmuError: it is.
        """
        if self._unplugging and self._ids.get(_last_part(device_id)) == self._unplugging:
            raise EmuError(f"Device {device_id} is already in the process of unplug")

    def is_unplugging(self, name: str) -> bool:
        """Whether the guest is being asked to release the device in a slot."""
        return self._unplugging == name

    def _device(self, device_id: str) -> VhostDevice:
        name = self._ids.get(_last_part(device_id))
        for device in self._vm.devices:
            if device.name == name:
                return device
        raise DeviceNotFoundError(f"Device '{device_id}' not found")

    # -- chardevs and netdevs

    def query_chardev(self) -> list[JsonObject]:
        """QMP's query-chardev: the sockets of the back-ends."""
        return [
            {
                "label": name,
                "filename": f"unix:{chardev.path}",
                "frontend-open": bool(chardev.user),
            }
            for name, chardev in self._chardevs.items()
        ]

    def chardev_add(self, chardev_id: str, backend: JsonObject) -> JsonObject:
        """Connect to a back-end's socket, for a later device_add.

        Raises:
            EmuError: the id is taken, the backend is not a unix socket to connect to, or no process
                listens there.
        """
        _check_identifier(chardev_id)
        if chardev_id in self._chardevs:
            raise EmuError(f"Chardev with id '{chardev_id}' already exists")
        path = _socket_path(backend)
        try:
            connection = FrontendConnection.connect(path, name=chardev_id, timeout=0)
        except VhostUserError as error:
            raise EmuError(f"Failed to add chardev '{chardev_id}': {error}") from None
        self._chardevs[chardev_id] = Chardev(path, connection)
        return {}

    def chardev_remove(self, chardev_id: str) -> None:
        """Forget a chardev, and disconnect.

        Raises:
            EmuError: there is none of that id, or it is in use.
        """
        chardev = self._chardevs.get(chardev_id)
        if chardev is None:
            raise EmuError(f"Chardev '{chardev_id}' not found")
        if chardev.user:
            raise EmuError(f"Chardev '{chardev_id}' is busy: {chardev.user} uses it")
        if chardev.connection is not None:
            chardev.connection.close()
        del self._chardevs[chardev_id]

    def netdev_add(self, kind: str, netdev_id: str, chardev: str) -> None:
        """Make a chardev the back-end of a NIC.

        Raises:
            EmuError: the id is taken, the type is not vhost-user, or the chardev cannot be used.
        """
        if kind != "vhost-user":
            raise EmuError(f"Parameter 'type' is '{kind}': only vhost-user is supported")
        _check_identifier(netdev_id)
        if netdev_id in self._netdevs:
            raise EmuError(f"Duplicate ID '{netdev_id}' for netdev")
        self._free_chardev(chardev).user = netdev_id
        self._netdevs[netdev_id] = chardev

    def netdev_del(self, netdev_id: str) -> None:
        """Forget a netdev that no device uses.

        Raises:
            DeviceNotFoundError: there is none of that id.
            EmuError: a device uses it.
        """
        if netdev_id not in self._netdevs:
            raise DeviceNotFoundError(f"Device '{netdev_id}' not found")
        chardev = self._chardevs[self._netdevs[netdev_id]]
        if chardev.user != netdev_id:
            raise EmuError(f"netdev '{netdev_id}' is in use by {chardev.user}")
        chardev.user = ""
        del self._netdevs[netdev_id]

    def _free_chardev(self, chardev_id: str, user: str = "") -> Chardev:
        chardev = self._chardevs.get(chardev_id)
        if chardev is None:
            raise EmuError(f"Property 'chardev' can't find value '{chardev_id}'")
        if chardev.user != user:
            raise EmuError(f"chardev '{chardev_id}' is in use by {chardev.user}")
        return chardev

    # -- devices

    def device_add(self, properties: Mapping[str, object], *, arriving: bool) -> None:
        """Plug a device into an empty slot.

        Args:
            properties: the arguments of device_add.
            arriving: the VM is still to arrive by a migration.

        Raises:
            EmuError: a property is invalid, or there is no slot for such a device.
            VhostUserError: the back-end does not fit.
        """
        given = _checked(properties)
        device_class = DRIVERS.get(str(given.get("driver")))
        if device_class is None:
            raise EmuError(f"'{given.get('driver')}' is not a valid device model name")
        netdev = str(given.get("netdev", ""))
        chardev_id = self._chardev_of(device_class, given)
        chardev = self._free_chardev(chardev_id, netdev)
        name, device_id = self._slot_for(device_class, given)
        queues = given.get("num-queues")
        spec = self._vm.spec.devices[self._vm.slot(name)]
        if queues not in (None, spec.rings):
            raise EmuError(f"num-queues={queues}: the slot of {name} has {spec.rings} rings")
        back_end = self._connect(device_class, name, chardev)
        features = self._features.get(name, 0)
        plug(self._vm, name, back_end, chardev.path, features=features, arriving=arriving)
        chardev.user = device_id
        self._ids = {**self._ids, device_id: name}
        self.replaced |= chardev.path != self._original.get(name)

    def _chardev_of(self, device_class: str, given: JsonObject) -> str:
        if device_class != "net":
            if "chardev" not in given:
                raise EmuError("chardev is mandatory")
            return str(given["chardev"])
        if "netdev" not in given:
            raise EmuError("netdev is mandatory: only vhost-user NICs are supported")
        netdev = str(given["netdev"])
        if netdev not in self._netdevs:
            raise EmuError(f"Property 'virtio-net-device.netdev' can't find value '{netdev}'")
        return self._netdevs[netdev]

    def _slot_for(self, device_class: str, given: JsonObject) -> tuple[str, str]:
        """The name of an empty slot, that of the id if there is one, and the device's id."""
        spec = self._vm.spec
        empty = [device for device in spec.devices if device.name in spec.absent]
        fitting = [device.name for device in empty if device.device_class == device_class]
        device_id = str(given.get("id", ""))
        if "id" in given:
            _check_identifier(device_id)
        if device_id in self._ids:
            raise EmuError(f"Duplicate device ID '{device_id}'")
        if not fitting:
            raise EmuError(
                f"no slot is empty for a {KINDS[device_class].title}: device_del another one first"
            )
        name = device_id if device_id in fitting else fitting[0]
        return name, device_id or name

    def _connect(self, device_class: str, name: str, chardev: Chardev) -> BackEnd:
        """Negotiate on the chardev's connection, or on a new one if a device has used that."""
        connection, chardev.connection = chardev.connection, None
        if connection is None:
            connection = FrontendConnection.connect(
                chardev.path, name=name, timeout=CONNECT_TIMEOUT
            )
        front_end: type[VhostDevice] = load(KINDS[device_class].front_end)
        return front_end.negotiate(connection, self._vm.timeout)

    def device_del(self, device_id: str, *, arriving: bool) -> None:
        """Begin to unplug a device; DEVICE_DELETED follows when the guest has released it.

        If it does not, DEVICE_UNPLUG_GUEST_ERROR follows, and the device works on.

        Args:
            device_id: its id, or its path ``/machine/peripheral/ID``.
            arriving: the VM is still to arrive by a migration.

        Raises:
            DeviceNotFoundError: there is none.
            EmuError: the device cannot be unplugged now.
        """
        self.settle()
        vm, device = self._vm, self._device(device_id)
        if vm.guest.reader is not None and device.name == "blk0":
            raise EmuError("blk0: the guest reads this disk in full, and cannot release it")
        if vm.machine.paused and not arriving:
            raise EmuError("the VM is paused: cont first, so that the guest can release the device")
        self._unplugging = device.name
        self._thread = threading.Thread(target=self._unplug, args=(device,), name="unplug")
        self._thread.start()

    def _unplug(self, device: VhostDevice) -> None:
        device_id = self.id_of(device.name)
        data: JsonObject = {"device": device_id, "path": f"/machine/peripheral/{device_id}"}
        self._features[device.name] = device.acked_features
        try:
            unplug(self._vm, device, UNPLUG_TIMEOUT)
        except (EmuError, VhostUserError, OSError) as error:
            self._unplugging = ""
            self._emit("DEVICE_UNPLUG_GUEST_ERROR", {**data, "x-reason": str(error)})
            return
        # Replaced, as a command may iterate over it.
        self._ids = {key: slot for key, slot in self._ids.items() if key != device_id}
        for name, chardev in self._chardevs.items():
            if chardev.user == device_id:
                # A NIC's netdev stays until netdev_del.
                owners = [key for key, value in self._netdevs.items() if value == name]
                chardev.user = owners[0] if owners else ""
        self._unplugging = ""
        self._emit("DEVICE_DELETED", data)

    def settle(self) -> None:
        """Return when no device is being unplugged: `UNPLUG_TIMEOUT` and a little more."""
        thread = self._thread
        if thread is not None:
            thread.join()

    def close(self) -> None:
        """Close the connections that no device uses."""
        self.settle()
        for chardev in self._chardevs.values():
            if chardev.connection is not None:
                chardev.connection.close()


def _last_part(device_id: str) -> str:
    """The id of a device, of which its path ``/machine/peripheral/ID`` may be given."""
    return device_id.rpartition("/")[2]


def _check_identifier(text: str) -> None:
    """Check an id by QEMU's rule (util/id.c, id_wellformed).

    Raises:
        EmuError: it is not one.
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9._-]*", text) is None:
        raise EmuError("Parameter 'id' expects an identifier")


def _checked(properties: Mapping[str, object]) -> JsonObject:
    """The properties of device_add that have an effect.

    Raises:
        EmuError: one is unknown, or of another type.
    """
    if "driver" not in properties:
        raise EmuError("Parameter 'driver' is missing")
    given: JsonObject = {}
    for name, value in properties.items():
        if name in _WITHOUT_EFFECT:
            continue
        expected = _PROPERTIES.get(name)
        if expected is None:
            raise EmuError(f"Property '{properties['driver']}.{name}' not found")
        if name == "num-queues" and isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:9])  # noqa: PLW2901  QEMU takes properties as text, too
        if type(value) is not expected:
            text = "integer" if expected is int else "string"
            raise EmuError(f"Invalid parameter type for '{name}', expected: {text}")
        given[name] = value
    return given


def _socket_path(backend: JsonObject) -> str:
    """The path of a chardev's socket.

    Raises:
        EmuError: it is another kind of chardev, or one that listens itself.
    """
    try:
        data = check(backend, _SOCKET, "backend")["data"]
    except JsonInputError as error:
        raise EmuError(f"Invalid parameter: {error}: only unix sockets are supported") from None
    address = data["addr"]
    if backend["type"] != "socket" or address["type"] != "unix" or "path" not in address["data"]:
        raise EmuError("only chardevs of the type socket with a unix address are supported")
    if data.get("server", True):
        raise EmuError("the back-end listens: set 'server' to false (QEMU's default is true)")
    return str(address["data"]["path"])
