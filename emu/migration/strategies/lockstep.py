"""One request, one reply: the way in which every front-end talks today."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.migration.timeline import now
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from devices.procedure import Ask
    from emu.migration.strategies.task import Stage, Task
    from vhost_user.messages import Reply


def answer_in_lockstep(task: Task, step: Ask, stage: Stage) -> list[Reply | None]:
    """Send each request when the one before has been answered; the replies, in order."""
    call = step.connection.call
    add = stage.timeline.add
    replies: list[Reply | None] = []
    for request in step.requests:
        start = now()
        replies.append(call(request, stage.deadline))
        payload = request.payload
        add(
            step.phase,
            start,
            device_class=task.device_class,
            device=task.device,
            ring=payload.index if isinstance(payload, VringState) else None,
        )
    return replies
