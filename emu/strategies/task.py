"""Tasks: the procedures of devices, as a strategy schedules them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from devices.device import VhostDevice
    from devices.notifiers import Edit
    from devices.procedure import Answer, Procedure, Step
    from emu.strategies.timeline import OpenSpan, Timeline
    from vhost_user.messages import Reply


class Committer(Protocol):
    """Applies edits to the machine: one call is one commit."""

    def apply(self, edits: Sequence[Edit]) -> None:
        """Commit these edits, all or none of them."""


class Stage(NamedTuple):
    """The machine, timeline and timeout that a strategy uses.

    Attributes:
        machine: commits edits. Only the thread that drives the strategy may call it.
        timeline: collects the spans.
        timeout: seconds that one reply, or one phase, may take.
    """

    machine: Committer
    timeline: Timeline
    timeout: float


class Task:
    """One procedure of one device, and its current step.

    Attributes:
        device: the device's name.
        device_class: ``blk``, ``net`` or ``rng``.
        step: the step that the strategy has to execute next; None when the procedure has ended. Not
            set before `begin`.
        begun: the span of the step, since its requests were sent; only for a strategy that has
            several tasks in flight.
        answered: the replies to them so far.
    """

    __slots__ = ("_procedure", "answered", "begun", "device", "device_class", "step")

    begun: OpenSpan
    step: Step | None

    def __init__(self, device: str, device_class: str, procedure: Procedure) -> None:
        self.device = device
        self.device_class = device_class
        self._procedure = procedure
        self.answered: list[Reply] = []

    def begin(self) -> None:
        """Run to the first step, which encodes its messages."""
        self.resume(None)

    def resume(self, answer: Answer) -> None:
        """Send the answer to the procedure, and run it to its next step."""
        try:
            self.step = self._procedure.send(answer)
        except StopIteration:
            self.step = None


def begin_tasks(
    devices: Iterable[VhostDevice], procedure: Callable[[VhostDevice], Procedure]
) -> list[Task]:
    """A task of this procedure for each device, which has begun."""
    tasks = [Task(device.name, device.device_class, procedure(device)) for device in devices]
    for task in tasks:
        task.begin()
    return tasks
