"""A device's procedure under way, and where its steps' answers come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from devices.notifiers import Edit
    from devices.procedure import Answer, Procedure, Step
    from emu.strategies.timeline import Timeline
    from vhost_user.messages import Reply


class Committer(Protocol):
    """Whatever applies edits to the machine: one call is one commit."""

    def apply(self, edits: Sequence[Edit]) -> None:
        """Commit these edits, all or none of them."""


class Stage(NamedTuple):
    """What a scheduler works with.

    Attributes:
        machine: commits edits. Only the thread that drives the strategy may call it.
        timeline: where spans go.
        timeout: seconds that one reply, or one phase, may take.
    """

    machine: Committer
    timeline: Timeline
    timeout: float


class Task:
    """One procedure, and the step that it waits for.

    Attributes:
        device: the device's name.
        device_class: ``blk`` or ``net``.
        step: what it has yielded and nobody has answered; None when it has ended.
    """

    __slots__ = ("_procedure", "answered", "device", "device_class", "started", "step")

    def __init__(self, device: str, device_class: str, procedure: Procedure) -> None:
        self.device = device
        self.device_class = device_class
        self._procedure = procedure
        self.step: Step | None = None
        self.started = 0
        self.answered: list[Reply] = []
        self.resume(None)

    def resume(self, answer: Answer) -> None:
        """Give the answer to the step, and run on to the next one."""
        try:
            self.step = self._procedure.send(answer)
        except StopIteration:
            self.step = None
