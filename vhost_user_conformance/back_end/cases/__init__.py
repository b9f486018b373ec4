"""The cases for back-ends, a file for each area. `AREAS` names them all."""

from __future__ import annotations

from vhost_user_conformance.back_end.cases import (
    bases,
    channel,
    device_state,
    errors,
    framing,
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
from vhost_user_conformance.back_end.cases.blk import ranges
from vhost_user_conformance.back_end.cases.config import fields
from vhost_user_conformance.back_end.cases.dirty_log import edges
from vhost_user_conformance.back_end.cases.inflight import resume
from vhost_user_conformance.back_end.cases.memory import slots_limits, table
from vhost_user_conformance.back_end.cases.net import control
from vhost_user_conformance.model.case import Case, collect

#: In the order in which they run.
AREAS = (
    framing.area,
    negotiation.area,
    table.area,
    rings.area,
    notifications.area,
    bases.area,
    reply_ack.area,
    edges.area,
    fields.area,
    slots_limits.area,
    multi_queue.area,
    resume.area,
    ranges.area,
    control.area,
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
