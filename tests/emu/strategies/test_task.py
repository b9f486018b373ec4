"""Tasks: a procedure that a scheduler drives."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from devices.procedure import AwaitSwitchover, Change, Phase
from emu.strategies.task import Task, begin_tasks

if TYPE_CHECKING:
    from devices.device import VhostDevice
    from devices.procedure import Answer, Procedure


def recording(answers: list[Answer]) -> Procedure:
    """Two steps, whose answers go to a list."""
    answers.append((yield AwaitSwitchover()))
    answers.append((yield Change(Phase.ENABLE_HOST_NOTIFY, ())))


def test_a_task_runs_nothing_before_it_begins() -> None:
    """Its first step encodes messages, which takes time: the caller decides when."""
    ran: list[int] = []

    def procedure() -> Procedure:
        ran.append(1)
        yield AwaitSwitchover()

    task = Task("net0", "net", procedure())
    assert len(ran) == 0
    with pytest.raises(AttributeError):
        _ = task.step
    task.begin()
    assert len(ran) == 1
    assert isinstance(task.step, AwaitSwitchover)


def test_answers_go_to_the_step_that_waits_and_the_last_ends_the_task() -> None:
    answers: list[Answer] = []
    task = Task("net0", "net", recording(answers))
    task.begin()
    steps = [task.step]
    for answer in ([None], None):
        task.resume(answer)
        steps.append(task.step)
    assert steps == [AwaitSwitchover(), Change(Phase.ENABLE_HOST_NOTIFY, ()), None]
    assert answers == [[None], None]


def test_begun_tasks_are_named_after_their_devices_and_at_their_first_step() -> None:
    names = {"net0": "net", "blk0": "blk"}
    devices = [SimpleNamespace(name=name, device_class=kind) for name, kind in names.items()]
    tasks = begin_tasks(cast("list[VhostDevice]", devices), lambda _device: recording([]))
    assert {task.device: task.device_class for task in tasks} == names
    assert all(isinstance(task.step, AwaitSwitchover) for task in tasks)


def test_a_procedure_without_steps_has_ended_when_it_has_begun() -> None:
    def nothing() -> Procedure:
        yield from ()

    task = Task("net0", "net", nothing())
    task.begin()
    assert task.step is None
