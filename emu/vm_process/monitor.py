"""The monitor of ``--qmp``: the table of its commands, and its events.

docs/reference/qmp.md is made from the tables of this module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from emu.migration.endpoint import StreamSecurity
from emu.qmp.listener import MonitorListener
from emu.vm_process.qemu_commands import Identity, QemuCommands

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from emu.qmp.protocol import JsonObject
    from emu.qmp.server import Handler
    from emu.vm_process.control import Control


class CommandRow(NamedTuple):
    """A command of the monitor.

    Attributes:
        name: of the command.
        handler: returns the handler.
        help: what it does, and what differs from QEMU.
    """

    name: str
    handler: Callable[[QemuCommands], Handler]
    help: str


class DocumentRow(NamedTuple):
    """An event, or a command of the server of each client, for the document."""

    name: str
    help: str


COMMANDS = (
    CommandRow(
        "query-status",
        lambda commands: commands.control.query_status,
        "the run state, such as `running`",
    ),
    CommandRow(
        "stop",
        lambda commands: commands.control.stop,
        "stops the vCPUs and the devices (GET_VRING_BASE); event STOP. Refused while the VM "
        "migrates, which QEMU permits. A VM that is still to arrive is stopped when it has arrived",
    ),
    CommandRow(
        "cont",
        lambda commands: commands.control.cont,
        "starts the devices and the vCPUs again; event RESUME. Refused while the VM migrates, and "
        "afterwards at the source: QEMU would run the VM on both sides",
    ),
    CommandRow(
        "system_reset",
        lambda commands: commands.control.reset,
        "the guest's drivers reset all devices and set them up again; event RESET. Refused while a "
        "device has no back-end, or the VM is stopped, which QEMU permits",
    ),
    CommandRow(
        "query-cpus-fast", lambda commands: commands.query_cpus, "the vCPUs and their threads"
    ),
    CommandRow(
        "query-block",
        lambda commands: commands.query_block,
        "the disks. QEMU does not list vhost-user disks; here `inserted` has the socket as `file`, "
        "and the capacity",
    ),
    CommandRow(
        "query-chardev", lambda commands: commands.query_chardev, "the sockets of the back-ends"
    ),
    CommandRow(
        "chardev-add",
        lambda commands: commands.chardev_add,
        "connects to the unix socket of a back-end; `server` has to be false",
    ),
    CommandRow(
        "chardev-remove",
        lambda commands: commands.chardev_remove,
        "removes a chardev that no device uses",
    ),
    CommandRow(
        "netdev_add", lambda commands: commands.netdev_add, "makes a chardev the back-end of a NIC"
    ),
    CommandRow(
        "netdev_del", lambda commands: commands.netdev_del, "removes a netdev that no NIC uses"
    ),
    CommandRow(
        "device_add",
        lambda commands: commands.device_add,
        "plugs `vhost-user-blk-pci` or `vhost-user-rng-pci` (`chardev`), or `virtio-net-pci` "
        "(`netdev`), into an empty slot; `num-queues` has to be the slot's",
    ),
    CommandRow(
        "device_del",
        lambda commands: commands.device_del,
        "asks the guest to release a device; the event DEVICE_DELETED follows, or, if its requests "
        "are not completed within 10 s, DEVICE_UNPLUG_GUEST_ERROR",
    ),
    CommandRow(
        "migrate",
        lambda commands: commands.migrate,
        "starts a migration to `uri` (`unix:PATH`, `tcp:HOST:PORT`) or to the one element of "
        "`channels`, with the strategy `x-strategy` (default `prewired`) and its `x-options` "
        "(`threads`, `processes`, `unsafe`); events MIGRATION, MIGRATION_PASS. A VM that is "
        "stopped stays so at the destination. The migration fails if the name of a host is not "
        "resolved within `x-deadline`",
    ),
    CommandRow(
        "migrate-incoming",
        lambda commands: commands.migrate_incoming,
        "waits for a VM at `uri`; only if the command was started with `--incoming defer`",
    ),
    CommandRow(
        "migrate_cancel",
        lambda commands: commands.control.cancel,
        "cancels the migration; the VM runs on at the source",
    ),
    CommandRow(
        "migrate-set-parameters",
        lambda commands: commands.set_parameters,
        "sets parameters of later migrations (QEMU's have an effect on the current one); "
        "`x-deadline` (seconds for each step), `x-on-no-converge` (`switch`, `abort`) and "
        "`x-check-locks` are not QEMU's",
    ),
    CommandRow(
        "query-migrate-parameters", lambda commands: commands.query_parameters, "all parameters"
    ),
    CommandRow(
        "migrate-set-capabilities",
        lambda commands: commands.set_capabilities,
        "sets `auto-converge`, `events`, `multifd`. `events` is on from the beginning, and "
        "`return-path` always",
    ),
    CommandRow(
        "query-migrate-capabilities",
        lambda commands: commands.query_capabilities,
        "all capabilities",
    ),
    CommandRow(
        "query-migrate",
        lambda commands: commands.control.query_migrate,
        "the current migration, or the last one; `ram` has `transferred`, `remaining`, `total` and "
        "`dirty-sync-count` only",
    ),
    CommandRow(
        "x-downtime-phases",
        lambda commands: commands.downtime_phases,
        "the phases of the last migration, as in [the JSON of `emu migrate`](json.md). The source "
        "has those of both sides",
    ),
    CommandRow(
        "calc-dirty-rate",
        lambda commands: commands.calc_dirty_rate,
        "has all devices log dirty memory for `calc-time` seconds; returns at once. The only "
        "`mode` is `dirty-bitmap`",
    ),
    CommandRow(
        "query-dirty-rate",
        lambda commands: commands.query_dirty_rate,
        "the last measurement, in MiB/s",
    ),
    CommandRow(
        "x-query-devices",
        lambda commands: commands.query_devices,
        "devices, their rings and notifiers, with counters since the guest booted",
    ),
    CommandRow(
        "x-stats", lambda commands: commands.control.stats, "counters of each class of devices"
    ),
    CommandRow(
        "x-quiesce",
        lambda commands: commands.control.quiesce,
        "stops the load, and waits for all requests",
    ),
    CommandRow(
        "x-resume-load", lambda commands: commands.control.resume_load, "starts the load again"
    ),
    CommandRow(
        "x-ledger", lambda commands: commands.control.request_log, "the guest's request log"
    ),
    CommandRow(
        "x-timeline",
        lambda commands: commands.control.timeline,
        "spans and marks of the last migration",
    ),
)
#: Those that the server of each client has.
SERVER_COMMANDS = (
    DocumentRow("qmp_capabilities", "ends the negotiation; no capability is offered"),
    DocumentRow("query-commands", "the names of all commands"),
    DocumentRow("query-version", "the version; `package` is `vhost-emu`"),
    DocumentRow("quit", "ends the command and its VM; event SHUTDOWN"),
)


EVENTS = (
    DocumentRow("STOP, RESUME", "the vCPUs were stopped, or run again"),
    DocumentRow("RESET", "`guest` and `reason`: after system_reset"),
    DocumentRow("SHUTDOWN", "`guest` and `reason`: `host-qmp-quit` or `host-signal`"),
    DocumentRow(
        "MIGRATION",
        "`status`: `setup`, `active`, `device`, `cancelling`, then `completed`, `failed`, "
        "`cancelled`",
    ),
    DocumentRow("MIGRATION_PASS", "`pass`: a round of pre-copy was sent"),
    DocumentRow("DEVICE_DELETED", "`device` and `path`: a device was unplugged"),
    DocumentRow(
        "DEVICE_UNPLUG_GUEST_ERROR",
        "`device` and `path`: the guest has not released the device; `x-reason` is not QEMU's",
    ),
    DocumentRow(
        "DEVICE_LOST",
        "`device`, the name of its slot, and `reason`: its back-end has disconnected. Not QEMU's",
    ),
    DocumentRow("DEVICE_BACK", "`device`: it has a back-end again. Not QEMU's"),
    DocumentRow(
        "DEVICE_NEEDS_RESET",
        "`device` and `requests`: the driver resets the device and submits that many requests "
        "again. Not QEMU's",
    ),
)


class Monitor:
    """The commands and events of one VM, at one socket.

    Args:
        control: of the VM.
        identity: of its disks, for migrations.
        security: of migrations.
    """

    def __init__(
        self,
        control: Control,
        identity: Identity | None = None,
        security: StreamSecurity | None = None,
    ) -> None:
        self._commands = QemuCommands(control, identity or Identity(), security or StreamSecurity())
        self._listener: MonitorListener | None = None

    def listen(
        self,
        path: Path,
        *,
        executing: threading.Lock | None = None,
        ended: Callable[[BaseException | None], object] = lambda _error: None,
    ) -> MonitorListener:
        """Listen at ``path``; clients are served from `MonitorListener.start` on.

        Args:
            path: of the socket.
            executing: see `MonitorListener`.
            ended: see `MonitorListener`.

        Raises:
            PreflightError: no socket can be made there.
        """
        self._listener = MonitorListener(path, self.handlers(), executing=executing, ended=ended)
        return self._listener

    def emit(self, name: str, data: JsonObject) -> None:
        """Send an event of the control to all clients, with the members that QEMU's has."""
        listener = self._listener
        if listener is None or name == "MIGRATION_ROUND":
            return
        if name in ("MIGRATION", "MIGRATION_PASS"):
            if not self._commands.settings.events:
                return
            data = {key: data[key] for key in ("status", "pass") if key in data}
        elif name == "RESET":
            data = {**data, "reason": "host-qmp-system-reset"}
        listener.emit(name, data)

    def handlers(self) -> dict[str, Handler]:
        """The commands, by name."""
        return {row.name: row.handler(self._commands) for row in COMMANDS}
