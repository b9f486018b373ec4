"""The source: a refusal changes no state; the figures that it reports."""
# ruff: noqa: D103 - the names describe them

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from emu.errors import CancelledError, MigrationError
from emu.migration.source import Source
from emu.migration.stream import Kind, MigrationStream
from emu.strategies.registry import make
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

    from emu.vm.vm import Vm


def source_of(vm: Vm, events: Events) -> Source:
    return Source(vm, make("prewired"), parameters=PARAMETERS, observe=events)


@pytest.mark.parametrize(
    ("kind", "payload", "text"),
    [
        (Kind.FAILED, b"no room", "no room"),
        (Kind.READY, b"", "received READY, expected WELCOME"),
        (Kind.WELCOME, b"[]", "WELCOME is invalid"),
    ],
)
def test_a_handshake_that_fails_changes_no_state(
    vm: Vm, kind: Kind, payload: bytes, text: str
) -> None:
    ours, theirs = socket.socketpair()
    destination = MigrationStream(theirs, timeout=TIMEOUT)
    destination.send(kind, payload)
    theirs.shutdown(socket.SHUT_WR)
    events = Events()
    source = source_of(vm, events)
    with pytest.raises(MigrationError, match=text):
        source.run(MigrationStream(ours, timeout=TIMEOUT), {})
    assert not events.seen
    assert not source.timeline.spans
    assert not any(device.logging for device in vm.devices)
    assert destination.receive()[0] is Kind.HELLO
    destination.close()
    await_requests(vm)
    check_request_log(vm)


def test_a_cancel_before_the_start_sends_nothing(vm: Vm) -> None:
    ours, theirs = socket.socketpair()
    source = source_of(vm, Events())
    assert source.cancel()
    with pytest.raises(CancelledError):
        source.run(MigrationStream(ours, timeout=TIMEOUT), {})
    with theirs:
        assert not theirs.recv(1)


def test_query_and_figures_before_and_after_the_migration(
    vm: Vm, other: Vm, tmp_path: Path
) -> None:
    source = source_of(vm, Events())
    ram = source.query("setup", 5)["ram"]
    assert (ram["transferred"], ram["remaining"], ram["dirty-sync-count"]) == (0, 5, 0)
    migration = Migration(vm, other, "prewired", tmp_path)
    migration.run()
    answer = migration.source.query("completed", 5)
    assert answer["ram"]["remaining"] == 0
    assert answer["ram"]["transferred"] > 0
    assert {"downtime", "expected-downtime", "cpu-throttle-percentage"} <= set(answer)
    figures = migration.source.figures()
    assert figures["requests_in_flight_at_stop"] > 0
    assert figures["precopy"]["rounds"] == answer["ram"]["dirty-sync-count"]
