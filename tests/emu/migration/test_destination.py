"""A destination that receives an unexpected section releases its devices and sends the reason."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest

from emu.config.migration_parameters import Parameters
from emu.errors import MigrationError
from emu.migration.destination import Destination
from emu.migration.handshake import hello
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.base import StrategyOptions
from tests.emu.migration.hosts import PARAMETERS, Events, Migration, check_request_log
from tests.timeouts import SCALE, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from emu.strategies.task import Stage, Task
    from emu.vm.vm import Vm

#: The sections before the unexpected one, and the text of the error.
CASES = {
    "no HELLO": ([], "received GO, expected HELLO"),
    "no DEVICES": ([Kind.HELLO], "received GO, expected DEVICES"),
    "other devices": ([Kind.HELLO, Kind.DEVICES], "the state of the devices ends before net0"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_unexpected_section_is_refused(vm: Vm, other: Vm, case: str) -> None:
    before, text = CASES[case]
    ours, theirs = socket.socketpair()
    source = MigrationStream(ours, timeout=TIMEOUT)
    payloads = {Kind.HELLO: json.dumps(hello(vm, "split", StrategyOptions())).encode()}
    for kind in before:
        source.send(kind, payloads.get(kind, b""))
    source.send(Kind.GO)
    destination = Destination(other, parameters=PARAMETERS, observe=Events())
    assert destination.awaits_vm
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(MigrationError, match=text):
        destination.run(MigrationStream(theirs, timeout=TIMEOUT))
    assert not any(device.connected for device in other.devices)
    assert other.machine.paused
    assert destination.awaits_vm
    if Kind.HELLO in before:
        assert source.receive()[0] is Kind.WELCOME
    kind, _, payload = source.receive()
    assert kind is Kind.FAILED
    assert text in payload.decode()
    source.close()


def test_further_streams_need_a_listener(vm: Vm, other: Vm) -> None:
    ours, theirs = socket.socketpair()
    source = MigrationStream(ours, timeout=TIMEOUT)
    source.send(Kind.HELLO, json.dumps(hello(vm, "split", StrategyOptions(), streams=2)).encode())
    destination = Destination(other, parameters=PARAMETERS, observe=Events())
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(MigrationError, match="further streams are not possible"):
        destination.run(MigrationStream(theirs, timeout=TIMEOUT))
    source.close()


def test_a_source_may_need_a_timeout_for_each_device(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = Parameters(timeout=3 * SCALE)
    migration = Migration(vm, other, "qemu-2021", tmp_path, parameters)
    strategy = migration.source.strategy
    stop = strategy.stop

    def stop_slowly(tasks: Sequence[Task], stage: Stage) -> None:
        time.sleep(1.3 * parameters.timeout)  # As several devices that take less than a timeout.
        stop(tasks, stage)

    monkeypatch.setattr(strategy, "stop", stop_slowly)
    migration.run()
    check_request_log(other)
