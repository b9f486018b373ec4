"""One request, one reply: the way in which every front-end talks today."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.strategies.timeline import now
from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from devices.procedure import Ask
    from emu.strategies.task import Stage, Task
    from vhost_user.messages import Reply


def answer_in_lockstep(
    task: Task, step: Ask, stage: Stage, *, units: int = 1
) -> list[Reply | None]:
    """Send each message when the one before has been answered; the replies, in order.

    Args:
        task: whose step it is.
        step: the step.
        stage: what to work with.
        units: what each message counts for in the timeline.
    """
    exchange = step.connection.exchange
    add = stage.timeline.add
    replies: list[Reply | None] = []
    for message in step.messages:
        start = now()
        replies.append(exchange(message, stage.timeout))
        payload = message.request.payload
        add(
            step.phase,
            start,
            device_class=task.device_class,
            device=task.device,
            ring=payload.ring if isinstance(payload, VringState) else None,
            units=units,
        )
    return replies
