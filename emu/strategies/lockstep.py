"""Lock-step: no message is sent before the reply to the one before, as front-ends do today.

A message that has no reply is not waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.payloads import VringState

if TYPE_CHECKING:
    from devices.procedure import Ask
    from emu.strategies.task import Stage, Task
    from vhost_user.messages import Reply


def answer_in_lockstep(
    task: Task, step: Ask, stage: Stage, *, units: int = 1
) -> list[Reply | None]:
    """Send each message after the reply to the one before; return the replies, in order.

    Args:
        task: the task that waits at the step.
        step: the step.
        stage: timeline and timeout.
        units: the units of each message's span.
    """
    exchange = step.connection.exchange
    timeline, device_class, device = stage.timeline, task.device_class, task.device
    replies: list[Reply | None] = []
    for message in step.messages:
        payload = message.request.payload
        ring = payload.ring if isinstance(payload, VringState) else None
        begun = timeline.begin(step.phase, device_class=device_class, device=device, ring=ring)
        replies.append(exchange(message, stage.timeout))
        timeline.end(begun, units=units)
    return replies
