"""QEMU's commands on a VM's `Control`: names, arguments and results are QEMU's (its qapi/*.json).

What QEMU does not have begins with ``x-``. The table of all commands is `monitor.COMMANDS`.
"""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, NamedTuple

from emu.errors import EmuError, MigrationError
from emu.json_input import JsonInputError, Members, check
from emu.migration import endpoint
from emu.migration.endpoint import StreamSecurity
from emu.strategies.timeline import Span, now
from emu.vm_process.migration_settings import MigrationSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.device import VhostDevice
    from emu.guest.program import Progress
    from emu.qmp.protocol import JsonObject
    from emu.vm_process.control import Control

#: The strategy of ``migrate``.
DEFAULT_STRATEGY = "prewired"
_ADDRESS = Members({"transport": str, "type": str}, {"path": str, "host": str, "port": str})
_CHANNEL = Members({"channel-type": str, "addr": _ADDRESS})
#: QEMU's names of the targets.
_TARGETS = {"arm64": "aarch64", "AMD64": "x86_64"}


class Identity(NamedTuple):
    """What the two sides of a migration compare, and report to each other.

    Attributes:
        disks: identifies the images, for HELLO (`orchestrator.disk_identity`); None if the
            back-ends are not this run's.
        incoming: the same, for a VM that arrives; None for no check.
        stats: path of the counters of each program that serves disks; None if they have none.
    """

    disks: JsonObject | None = None
    incoming: JsonObject | None = None
    stats: Sequence[str] | None = None


class QemuCommands:
    """The handlers of the commands that differ from those of `Control`.

    Args:
        control: of the VM.
        identity: of its disks, for migrations.
        security: of migrations.
    """

    def __init__(
        self,
        control: Control,
        identity: Identity = Identity(),  # noqa: B008
        security: StreamSecurity = StreamSecurity(),  # noqa: B008
    ) -> None:
        self.control = control
        self._identity = identity
        self._security = security
        self.settings = MigrationSettings(control)

    # -- the machine

    def query_cpus(self) -> list[JsonObject]:
        """QMP's query-cpus-fast."""
        machine = platform.machine()
        return [
            {
                "cpu-index": index,
                "qom-path": f"/machine/unattached/device[{index}]",
                "thread-id": thread,
                "target": _TARGETS.get(machine, machine),
                "props": {"socket-id": 0, "core-id": index, "thread-id": 0},
            }
            for index, thread in enumerate(self.control.vm.machine.vcpus.thread_ids)
        ]

    def query_block(self) -> list[JsonObject]:
        """QMP's query-block, with the disks of vhost-user back-ends."""
        vm, hotplug = self.control.vm, self.control.hotplug
        found = []
        for spec in vm.spec.present:
            if spec.device_class != "blk":
                continue
            disk = vm.guest.config.disks[spec.number]
            device_id = hotplug.id_of(spec.name)
            found.append(
                {
                    "device": "",
                    "qdev": f"/machine/peripheral/{device_id}",
                    "locked": False,
                    "removable": False,
                    "type": "unknown",
                    "inserted": _inserted(
                        vm.backends[spec.name], disk.capacity or 0, read_only=disk.read_only
                    ),
                }
            )
        return found

    # -- devices

    def query_chardev(self) -> list[JsonObject]:
        """QMP's query-chardev."""
        return self.control.hotplug.query_chardev()

    def chardev_add(self, id: str, backend: JsonObject) -> JsonObject:  # noqa: A002
        """QMP's chardev-add."""
        return self.control.hotplug.chardev_add(id, backend)

    def chardev_remove(self, id: str) -> None:  # noqa: A002
        """QMP's chardev-remove."""
        self.control.settle()
        self.control.hotplug.chardev_remove(id)

    def netdev_add(
        self,
        type: str,  # noqa: A002
        id: str,  # noqa: A002
        chardev: str,
        **options: object,
    ) -> None:
        """QMP's netdev_add. The slot has its number of queues, so `queues` has no effect."""
        for name in options.keys() - {"queues", "vhostforce"}:
            raise EmuError(f"Parameter '{name}' is unexpected")
        self.control.settle()
        self.control.hotplug.netdev_add(type, id, chardev)

    def netdev_del(self, id: str) -> None:  # noqa: A002
        """QMP's netdev_del."""
        self.control.settle()
        self.control.hotplug.netdev_del(id)

    def device_add(self, **properties: object) -> None:
        """QMP's device_add."""
        with self.control.hotplugging("device_add") as arriving:
            self.control.hotplug.device_add(properties, arriving=arriving)

    def device_del(self, id: str) -> None:  # noqa: A002
        """QMP's device_del."""
        self.control.hotplug.refuse_second_unplug(id)
        with self.control.hotplugging("device_del") as arriving:
            self.control.hotplug.device_del(id, arriving=arriving)

    def query_devices(self) -> JsonObject:
        """Devices, rings and notifiers, for `emu top`.

        Returns:
            ``{"now-ns", "devices": [...]}``; docs/reference/qmp.md describes the members.
        """
        vm = self.control.vm
        progress = vm.guest.progress()
        devices = [
            self._describe(device, progress[vm.slot(device.name)])
            for device in tuple(vm.devices)  # one may be unplugged meanwhile
        ]
        return {"now-ns": now(), "devices": devices}

    def _describe(self, device: VhostDevice, progress: Progress) -> JsonObject:
        vm, hotplug = self.control.vm, self.control.hotplug
        running = sum(ring.started for ring in device.rings)
        if device.name in vm.reconnect.lost:
            state = "lost"
        elif hotplug.is_unplugging(device.name):
            state = "unplugging"
        else:
            state = "running" if running else "stopped"
        rings = [
            {
                "index": ring.index,
                "size": 0 if ring.addresses is None else ring.addresses.size,
                "state": _ring_state(ring.started, ring.enabled, ring.addresses is not None),
                "vector": ring.vector,
                "vcpu": vm.machine.routing.vcpu_of(ring.vector),
            }
            for ring in device.rings
        ]
        queues = [
            {
                "first-ring": found.first,
                "rings": found.rings,
                "completed": found.completed,
                "outstanding": found.outstanding,
                "kicks": found.kicks,
                "calls": found.calls,
            }
            for found in vm.guest.ring_counters(vm.slot(device.name))
        ]
        return {
            "id": hotplug.id_of(device.name),
            "name": device.name,
            "class": device.device_class,
            "backend": vm.backends[device.name],
            "state": state,
            "features": device.acked_features,
            "host-notifiers": device.host_notifiers,
            "guest-notifiers": device.guest_notifiers,
            "logging": device.logging,
            "inflight": device.inflight is not None,
            "completed": progress.completed,
            "outstanding": progress.outstanding,
            "kicks": sum(queue["kicks"] for queue in queues),
            "calls": sum(queue["calls"] for queue in queues),
            "rings": rings,
            "queues": queues,
        }

    # -- migration

    def migrate(
        self,
        uri: str | None = None,
        channels: list[JsonObject] | None = None,
        blk: bool | None = None,  # noqa: FBT001
        inc: bool | None = None,  # noqa: FBT001
        detach: bool | None = None,  # noqa: ARG002, FBT001  it never waits
        resume: bool | None = None,  # noqa: FBT001
        x_strategy: str = DEFAULT_STRATEGY,
        x_options: JsonObject | None = None,
    ) -> None:
        """QMP's migrate."""
        for name, value in (("blk", blk), ("inc", inc), ("resume", resume)):
            if value:
                raise EmuError(f"Parameter '{name}' is not supported")
        address = _address(uri, channels)
        # A name is resolved by the migration's thread: the monitor does not wait for it.
        if not endpoint.has_host_name(address):
            self._check_secure(address)
        identity = self._identity
        between = {"disks": identity.disks, "stats": identity.stats}
        self.control.migrate(
            address,
            x_strategy,
            x_options or {},
            tls=self._security.tls,
            between=between,
            loopback_only=not self._security.may_leave_host,
        )

    def migrate_incoming(
        self, uri: str | None = None, channels: list[JsonObject] | None = None
    ) -> None:
        """QMP's migrate-incoming."""
        if not self.control.prepared:
            raise EmuError("the command was not started with --incoming defer, or a VM is awaited")
        address = _address(uri, channels)
        self._check_secure(address)
        self.control.incoming(address, tls=self._security.tls, disks=self._identity.incoming)

    def _check_secure(self, address: str) -> None:
        """Check the address of a migration.

        Raises:
            EmuError: the VM's memory would cross a network in the clear.
        """
        if not self._security.may_leave_host and not _is_local(address):
            raise EmuError(
                f"{address} is not loopback, and the VM's memory would go over the network in the "
                "clear: give emu run --tls-cert, --tls-key and --tls-ca, or --insecure"
            )

    def set_parameters(self, **parameters: object) -> None:
        """QMP's migrate-set-parameters."""
        self.settings.set_parameters(parameters)

    def query_parameters(self) -> JsonObject:
        """QMP's query-migrate-parameters."""
        return self.settings.parameters()

    def set_capabilities(self, capabilities: list[JsonObject]) -> None:
        """QMP's migrate-set-capabilities."""
        self.settings.set_capabilities(capabilities)

    def query_capabilities(self) -> list[JsonObject]:
        """QMP's query-migrate-capabilities."""
        return self.settings.capabilities()

    def calc_dirty_rate(
        self,
        calc_time: int,
        mode: str = "dirty-bitmap",
        calc_time_unit: str = "second",
        sample_pages: int | None = None,
    ) -> None:
        """QMP's calc-dirty-rate."""
        if calc_time_unit != "second":
            raise EmuError(
                f"Parameter 'calc-time-unit' is {calc_time_unit!r}: only second is possible"
            )
        if sample_pages is not None:
            raise EmuError("Parameter 'sample-pages' needs the mode page-sampling")
        self.control.calc_dirty_rate(calc_time, mode)

    def query_dirty_rate(self) -> JsonObject:
        """QMP's query-dirty-rate."""
        empty = {"start-time": 0, "calc-time": 0, "sample-pages": 0, "mode": "dirty-bitmap"}
        return {**empty, **self.control.query_dirty_rate()}

    def downtime_phases(self) -> JsonObject:
        """The phases of the last migration: ``{"downtime_ms", "phases"}``.

        Raises:
            EmuError: there was no migration.
        """
        # With the reports psutil is imported, which a VM's process need not wait for.
        from emu.report.results import phase_rows

        here = self.control.timeline()
        there = here.get("destination") or {}
        other = there or here.get("source") or {}
        spans = [Span.from_json(row) for row in (*here["spans"], *there.get("spans", ()))]
        downtime = other.get("downtime_ns")
        return {
            "status": self.control.query_migrate().get("status", "none"),
            "downtime_ms": None if downtime is None else downtime / 1e6,
            "phases": [row.to_json() for row in phase_rows(spans)],
        }


def _ring_state(started: bool, enabled: bool, set_up: bool) -> str:  # noqa: FBT001
    if not set_up:
        return "unused"
    if not started:
        return "stopped"
    return "running" if enabled else "disabled"


def _inserted(path: str, sectors: int, *, read_only: bool) -> JsonObject:
    """QMP's BlockDeviceInfo of a disk with that many sectors of 512 bytes."""
    limits = dict.fromkeys(("bps", "bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    return {
        "file": path,
        "ro": read_only,
        "drv": "vhost-user",
        "backing_file_depth": 0,
        "encrypted": False,
        "detect_zeroes": "off",
        **limits,
        "write_threshold": 0,
        "cache": {"writeback": True, "direct": False, "no-flush": False},
        "image": {"filename": path, "format": "vhost-user", "virtual-size": sectors * 512},
    }


def _address(uri: str | None, channels: list[JsonObject] | None) -> str:
    """The address of a migration.

    Raises:
        EmuError: there is none, or it is invalid.
    """
    if (uri is None) == (channels is None):
        raise EmuError("give one of 'uri' and 'channels'")
    if channels is not None:
        uri = _uri_of(channels)
    assert uri is not None  # noqa: S101  checked above
    try:
        endpoint.parse(uri)
    except MigrationError as error:
        raise EmuError(f"Parameter 'uri' expects a valid migration protocol: {error}") from None
    return uri


def _is_local(uri: str) -> bool:
    """See `endpoint.is_local`.

    Raises:
        EmuError: the host is unknown.
    """
    try:
        return endpoint.is_local(uri)
    except MigrationError as error:
        raise EmuError(f"Parameter 'uri' expects a valid migration protocol: {error}") from None


def _uri_of(channels: list[JsonObject]) -> str:
    try:
        (channel,) = (check(channel, _CHANNEL, "channels") for channel in channels)
    except (JsonInputError, ValueError):
        raise EmuError("Parameter 'channels' expects one main channel to a socket") from None
    address = channel["addr"]
    if (channel["channel-type"], address["transport"]) == ("main", "socket"):
        if address["type"] == "unix" and "path" in address:
            return f"unix:{address['path']}"
        if address["type"] == "inet" and {"host", "port"} <= address.keys():
            host = address["host"]
            return f"tcp:{f'[{host}]' if ':' in host else host}:{address['port']}"
    raise EmuError("Parameter 'channels' expects one main channel to a socket")
