"""The cases for front-ends, a file for each area. `AREAS` names them all."""

from __future__ import annotations

from vhost_user_conformance.front_end.cases import (
    channel,
    config,
    data_path,
    device_state,
    dirty_log,
    errors,
    framing,
    kicks,
    memory,
    negotiation,
    reply_ack,
    returning,
    rings,
)
from vhost_user_conformance.model.case import Case, collect

#: In the order in which they run.
AREAS = (
    framing.area,
    negotiation.area,
    memory.area,
    rings.rings,
    kicks.notifications,
    rings.bases,
    reply_ack.area,
    dirty_log.area,
    config.config,
    memory.slots,
    config.queues,
    config.inflight,
    channel.area,
    errors.status,
    device_state.area,
    returning.errors,
    errors.resources,
    errors.timing,
    data_path.area,
)


def cases() -> list[Case]:
    """All cases for front-ends, by id."""
    return collect(AREAS)
