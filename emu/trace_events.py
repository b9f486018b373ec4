"""Trace events of the machine and the migration; `vhost_user.trace_events` has the protocol's."""

from __future__ import annotations

from vhost_user.tracing import event

PHASE_BEGIN = event(
    "migration_phase_begin",
    *("side", "phase", "device_class", "device", "ring", "in_blackout"),
    help="A device, or the whole VM, begins a phase of a stop or a start.",
)
PHASE_END = event(
    "migration_phase_end",
    *("side", "phase", "device_class", "device", "ring", "in_blackout", "units", "start_ns", "us"),
    help="The phase ends; `units` are its messages or notifiers, `start_ns` is its beginning on "
    "the clock of the lines, `us` its microseconds.",
)
MARK = event(
    "migration_mark",
    *("mark", "at_ns"),
    help="A point in time from which the downtime is computed, such as `pause_start_ns`; `at_ns` "
    "is exact, on the clock of the lines.",
)
STATUS = event(
    "migration_status",
    *("status", "error"),
    help="The status of a migration changes, as in QMP's event MIGRATION.",
)
ROUND = event(
    "migration_round",
    *("round", "remaining", "sent"),
    help="A round of memory begins; `remaining` and `sent` are bytes.",
)
REQUESTS = event(
    "guest_requests",
    *("in_flight",),
    help="Requests to disks and entropy devices in flight: at each round of memory, and when the "
    "vCPUs have been paused.",
)
COMMIT = event(
    "memory_commit",
    *("host_notifiers", "guest_notifiers", "list_work", "us"),
    help="The machine commits changes of ioeventfds and irqfds; `list_work` are the ioeventfds "
    "that the commit compared.",
)
VCPUS = event(
    "vcpus_state",
    *("state",),
    help="All vCPUs have been paused, or have been resumed.",
)
QMP_COMMAND = event("qmp_command", *("name",), help="A QMP server executes a command.")
QMP_EVENT = event("qmp_event", *("name", "data"), help="A QMP server sends an event.")
