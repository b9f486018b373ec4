"""The commands of a VM's monitor.

The methods of `VmControl` are the monitor's commands, by the names in `commands`; their arguments
and results are JSON. The monitor itself has ``quit``.

A VM process starts without a VM. ``x-create`` configures one; then ``x-start`` boots it, or
``migrate-incoming`` waits for it. After ``x-release`` the process has no VM again, so two such
processes can migrate one VM back and forth.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject
    from emu.qmp.server import Handler


class VmControl(Protocol):
    """The monitor's commands. All times are nanoseconds of CLOCK_MONOTONIC.

    A method that fails raises `EmuError`, `VhostUserError` or `OSError`; the error's text is shown
    to the user. Any other exception ends the process.

    Events, through the `EventSink` of the control: ``MIGRATION {"status"}`` on each change
    (``setup``, ``active``, ``device``, then ``completed``, ``failed`` or ``cancelled``, with
    ``"error-desc"`` when it failed), ``STOP`` and ``RESUME``; at the source ``MIGRATION_PASS
    {"pass", "remaining", "bytes"}`` after each round of pre-copy, and ``MIGRATION_ROUND {"round",
    "sent", "size", "max-bandwidth"}`` within a round that takes long. The source reports
    ``failed`` when the VM runs on there, and the destination ``completed`` when the VM runs there.
    """

    def create(
        self,
        *,
        name: str,
        spec: JsonObject,
        accel: str,
        costs: str,
        load: str,
        backends: JsonObject,
        disk: JsonObject | None = None,
        dirty_rate: int = 0,
    ) -> JsonObject:
        """Configure the VM of this process; `start` or `incoming` builds it.

        Args:
            name: of this side, ``A`` or ``B``; it has no effect.
            spec: `emu.config.vm_file.spec_to_json`.
            accel: ``auto``, ``soft`` or ``kvm``.
            costs: ``native`` or ``rfc2021``.
            load: ``none``, ``light`` or ``heavy``.
            backends: socket path of each device's back-end, by the device's name.
            disk: the user's image file of ``blk0``: ``{"path", "size", "writable"}``; None for a
                scratch image, as every other disk has.
            dirty_rate: bytes of memory a second that the guest writes in addition to its load.

        Returns:
            ``{"accel": "soft"}`` or ``"kvm"``: the accelerator that ``auto`` selects.
        """

    def start(self) -> JsonObject | None:
        """Build the machine, connect the devices, boot the guest and start its load."""

    def prepare(self) -> JsonObject | None:
        """Build the machine and connect the devices, for a later `incoming`."""

    def incoming(
        self,
        uri: str,
        *,
        handover: bool = False,
        tls: list[str] | None = None,
        disks: JsonObject | None = None,
    ) -> JsonObject:
        """Build the machine, connect the devices, and listen; returns when it listens.

        Args:
            uri: ``unix:PATH`` or ``tcp:ADDRESS:PORT``; port 0 selects a free port.
            tls: the fields of `emu.migration.tls.Credentials`, for TLS.
            disks: identifies the disk images (`orchestrator.disk_identity`), to compare with the
                source's; None when the source is a side of the same run.
            handover: the source hands its memory and devices over (strategy ``handover``): the
                machine is built from them later.

        Returns:
            ``{"uri": ...}``: the address for the source.
        """

    def migrate(
        self,
        uri: str,
        strategy: str,
        options: JsonObject,
        tls: list[str] | None = None,
        between: JsonObject | None = None,
        loopback_only: bool = False,  # noqa: FBT001, FBT002  an argument of QMP
    ) -> None:
        """Start a migration in a thread of its own, and return at once.

        Args:
            uri: the result of `incoming` at the destination.
            strategy: name of the strategy.
            options: fields of `emu.strategies.base.StrategyOptions`; others have their defaults.
            tls: see `incoming`.
            between: for a destination of another run: ``{"disks": identifies the disk images
                (`orchestrator.disk_identity`), "stats": [path of the counters of each program that
                serves disks], or None}``. Both sides then exchange completion reports.
            loopback_only: the migration fails if ``uri`` is an address of another host.
        """

    def set_parameters(self, parameters: JsonObject) -> None:
        """Set parameters of later migrations: `config.migration_parameters.Parameters`."""

    def query_parameters(self) -> JsonObject:
        """All parameters."""

    def cancel(self) -> None:
        """Cancel a migration; the VM stays where it is."""

    def stop(self) -> None:
        """Pause the VM, its devices included."""

    def cont(self) -> None:
        """Resume a paused VM, its devices included."""

    def reset(self) -> None:
        """Reset all devices and set them up again, as the guest's drivers do at a reboot."""

    def calc_dirty_rate(self, calc_time: int, mode: str = "dirty-bitmap") -> None:
        """Start to measure how fast memory becomes dirty; all devices log for that time.

        Args:
            calc_time: seconds, 1 to 60.
            mode: ``dirty-bitmap``, the only one.
        """

    def query_dirty_rate(self) -> JsonObject:
        """The last measurement: ``{"status", "dirty-rate": MiB/s, "calc-time": s, ...}``.

        The status is ``unstarted``, ``measuring`` or ``measured``.
        """

    def query_migrate(self) -> JsonObject:
        """QMP's ``query-migrate``: ``{"status", "total-time", "downtime", "ram", ...}``."""

    def query_status(self) -> JsonObject:
        """QMP's ``query-status``: ``{"status": "running", "running": true}``."""

    def timeline(self) -> JsonObject:
        """What this side recorded of the last migration.

        Returns:
            ``{"spans": [...], "marks": {name: ns}, "commits": N}``, each span being the list of
            the fields of an `emu.strategies.timeline.Span`; at the source also
            ``"requests_in_flight_at_stop"``, ``"precopy": {"rounds", "bytes", "ms"}`` and
            ``"destination"``, the destination's completion report if it belongs to another run; at
            the destination ``"source"``, likewise.
            Of the marks, ``pause_start_ns`` at the source and ``running_ns`` at the destination
            bound the downtime. ``commits`` are those of this side's blackout and preparation.
        """

    def request_log(self) -> JsonObject:
        """The guest's request log, since it booted.

        Returns:
            The fields of `emu.guest.request_log.RequestLog`, and ``guest_gap_ns``: the largest gap
            in the guest's heartbeat since the last blackout began, or since the guest booted; and
            ``counters_match``: the back-ends' counters count the same requests. They do not after
            system_reset, nor when a device was plugged that has another back-end than at the start.
        """

    def quiesce(self, timeout: float) -> JsonObject | None:
        """Stop the load; returns when no request is outstanding, or raises after ``timeout`` s."""

    def resume_load(self) -> JsonObject | None:
        """Start the guest's load again."""

    def stats(self) -> JsonObject:
        """Counters since the guest booted, for a live view.

        Returns:
            ``{"now_ns": ..., "classes": {"blk": {"requests", "interrupts"}, "net": {"packets",
            "interrupts"}}}``; a class may have further counters.
        """

    def verify(self, timeout: float, images: JsonObject) -> JsonObject:
        """Check all blocks that the guest wrote, read by the guest and read from the images.

        The load must be stopped.

        Args:
            timeout: seconds that the guest may take.
            images: path of the image of each scratch disk, by the disk's number. That of a disk
                which has another back-end than at the start is not read.

        Returns:
            ``{"checked": blocks, "corrupted": blocks, "images": number}``; a block that is wrong in
            the image and reads back wrong counts twice. The last one is how many images were read.
        """

    def disk_reader(self, action: str, limit: int | None = None) -> JsonObject:
        """Control the guest program that reads ``blk0`` in full through its rings.

        Args:
            action: ``start`` (from the beginning), ``limit``, or ``status``.
            limit: stop at this offset until another limit is set; None for the disk's end.

        Returns:
            ``{"position", "size", "done", "sha256"}``; the digest (hex) is null until done.
        """

    def release(self) -> JsonObject | None:
        """Close the VM, if there is one."""

    def close(self) -> None:
        """Release all resources, within a second or two: the process ends."""


def commands(control: VmControl) -> dict[str, Handler]:
    """The monitor's commands, by name."""
    return {
        "x-create": control.create,
        "x-start": control.start,
        "x-prepare": control.prepare,
        "migrate-incoming": control.incoming,
        "migrate": control.migrate,
        "migrate_cancel": control.cancel,
        "migrate-set-parameters": control.set_parameters,
        "query-migrate-parameters": control.query_parameters,
        "stop": control.stop,
        "cont": control.cont,
        "system_reset": control.reset,
        "calc-dirty-rate": control.calc_dirty_rate,
        "query-dirty-rate": control.query_dirty_rate,
        "query-migrate": control.query_migrate,
        "query-status": control.query_status,
        "x-timeline": control.timeline,
        "x-ledger": control.request_log,
        "x-quiesce": control.quiesce,
        "x-resume-load": control.resume_load,
        "x-stats": control.stats,
        "x-verify": control.verify,
        "x-disk-reader": control.disk_reader,
        "x-release": control.release,
    }
