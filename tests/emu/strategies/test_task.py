"""Tasks: procedures that a strategy schedules."""
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


def test_a_procedure_does_not_run_before_its_task_begins() -> None:
    """The first step encodes messages, which takes time: the caller decides when."""
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


def test_each_answer_resumes_the_procedure_and_the_last_one_ends_the_task() -> None:
    answers: list[Answer] = []
    task = Task("net0", "net", recording(answers))
    task.begin()
    steps = [task.step]
    for answer in ([None], None):
        task.resume(answer)
        steps.append(task.step)
    assert steps == [AwaitSwitchover(), Change(Phase.ENABLE_HOST_NOTIFY, ()), None]
    assert answers == [[None], None]


def test_begin_tasks_runs_each_devices_task_to_its_first_step() -> None:
    names = {"net0": "net", "blk0": "blk"}
    devices = [SimpleNamespace(name=name, device_class=kind) for name, kind in names.items()]
    tasks = begin_tasks(cast("list[VhostDevice]", devices), lambda _device: recording([]))
    assert {task.device: task.device_class for task in tasks} == names
    assert all(isinstance(task.step, AwaitSwitchover) for task in tasks)


def test_a_task_without_steps_ends_when_it_begins() -> None:
    def nothing() -> Procedure:
        yield from ()

    task = Task("net0", "net", nothing())
    task.begin()
    assert task.step is None
