"""Both destinations: handshake, reports, and the end of a migration that fails."""

from __future__ import annotations

import json
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from emu.errors import MigrationError
from emu.migration.destination import Destination
from emu.migration.handover import HandoverDestination
from emu.migration.handshake import hello
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.base import StrategyOptions
from tests.emu.migration.hosts import (
    PARAMETERS,
    Events,
    Migration,
    await_requests,
    check_request_log,
)
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

    from emu.migration.destination_base import DestinationBase
    from emu.vm.vm import Vm


def handover_destination(vm: Vm) -> HandoverDestination:
    """A destination that receives no VM."""

    def build(_state: object) -> Vm:
        raise AssertionError("no VM is handed over")

    return HandoverDestination(
        vm.spec,
        build,
        lambda: None,
        parameters=PARAMETERS,
        observe=Events(),
        accel=vm.machine.accel.name,
    )


def refused(destination: DestinationBase, vm: Vm, strategy: str) -> str:
    """The reason that the source receives after a HELLO with this strategy."""
    ours, theirs = socket.socketpair()
    source = MigrationStream(ours, timeout=TIMEOUT)
    source.send(Kind.HELLO, json.dumps(hello(vm, strategy, StrategyOptions())).encode())
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(MigrationError) as caught:
        destination.run(MigrationStream(theirs, timeout=TIMEOUT))
    kind, _, payload = source.receive()
    assert kind is Kind.FAILED
    assert payload.decode() == str(caught.value)
    source.close()
    return payload.decode()


def test_the_strategy_must_suit_the_destination(vm: Vm, other: Vm) -> None:
    """No device is released or changed before the end of the handshake."""
    ordinary = Destination(other, parameters=PARAMETERS, observe=Events())
    assert "has devices of its own" in refused(ordinary, vm, "handover")
    assert "until they are handed over: split" in refused(handover_destination(vm), vm, "split")
    await_requests(vm)
    check_request_log(vm)


@pytest.mark.parametrize("kind", [Kind.FAILED, Kind.RUNNING])
def test_a_source_that_does_not_send_go_keeps_the_vm(vm: Vm, other: Vm, kind: Kind) -> None:
    """The destination has sent READY, and waits."""
    ours, theirs = socket.socketpair()
    source = MigrationStream(ours, timeout=TIMEOUT)
    destination = Destination(other, parameters=PARAMETERS, observe=Events())
    source.send(kind)
    with pytest.raises(MigrationError, match=f"received {kind.name}, expected GO"):
        destination._await_go(MigrationStream(theirs, timeout=TIMEOUT))
    assert source.receive()[0] is Kind.READY
    assert destination.awaits_vm
    source.close()
    theirs.close()


def test_abort_fails_a_migration_that_has_not_received_go(vm: Vm, other: Vm) -> None:
    """From another thread; the source receives FAILED, and keeps the VM."""
    ours, theirs = socket.socketpair()
    source = MigrationStream(ours, timeout=TIMEOUT)
    destination = Destination(other, parameters=PARAMETERS, observe=Events())
    destination.abort()  # nothing is there to be aborted
    errors: list[Exception] = []

    def run() -> None:
        try:
            destination.run(MigrationStream(theirs, timeout=TIMEOUT))
        except MigrationError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    source.send(Kind.HELLO, json.dumps(hello(vm, "split", StrategyOptions())).encode())
    assert source.receive()[0] is Kind.WELCOME
    destination.abort()
    thread.join(TIMEOUT)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert source.receive()[0] is Kind.FAILED
    assert not any(device.connected for device in other.devices)
    source.close()


def test_reports_are_exchanged_if_hello_asks_for_them(vm: Vm, other: Vm, tmp_path: Path) -> None:
    """The destination's report has its phases and commits, the source's its figures."""
    migration = Migration(vm, other, "split", tmp_path, report=True)
    migration.run()
    assert migration.received == [None]
    there = migration.source.destination_report
    assert there["commits"] > 0
    assert there["marks"]["running_ns"] == migration.destination.timeline.marks["running_ns"]
    assert migration.destination.source_report["served"] == 7
    assert migration.destination.figures() == {"source": migration.destination.source_report}
    assert not migration.destination.awaits_vm
