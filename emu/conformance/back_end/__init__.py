"""The cases for back-ends, a file for each area. `AREAS` names them all."""

from __future__ import annotations

from emu.conformance.back_end import (
    bases,
    channel,
    config_fields,
    data_blk_ranges,
    data_net_control,
    device_state,
    dirty_log_edges,
    errors,
    framing,
    inflight_resume,
    memory,
    memory_slots_limits,
    multi_queue,
    negotiation,
    notifications,
    optional,
    pipelining,
    postcopy,
    program,
    reply_ack,
    resources,
    rings,
    scripts,
    status,
    timing,
)
from emu.conformance.case import Case, collect

#: In the order in which they run.
AREAS = (
    framing.area,
    negotiation.area,
    memory.area,
    rings.area,
    notifications.area,
    bases.area,
    reply_ack.area,
    dirty_log_edges.area,
    config_fields.area,
    memory_slots_limits.area,
    multi_queue.area,
    inflight_resume.area,
    data_blk_ranges.area,
    data_net_control.area,
    channel.area,
    status.area,
    device_state.area,
    postcopy.area,
    errors.area,
    resources.area,
    pipelining.area,
    timing.area,
    optional.area,
    scripts.area,
    program.area,
)


def cases() -> list[Case]:
    """All cases for back-ends, by id."""
    return collect(AREAS)
