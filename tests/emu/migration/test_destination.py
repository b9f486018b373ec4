"""A destination that receives an unexpected section releases its devices and sends the reason."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import pytest

from emu.errors import MigrationError
from emu.migration.destination import Destination
from emu.migration.handshake import hello
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.base import StrategyOptions
from tests.emu.migration.hosts import PARAMETERS, Events
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
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
