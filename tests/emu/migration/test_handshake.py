"""A destination refuses a VM that differs from its own, before the source changes any state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from devices import lifecycle
from emu.config.migration_parameters import Parameters
from emu.errors import MigrationError
from emu.migration.handshake import (
    VERSION,
    Handshake,
    hello,
    required_match,
    same_clock,
    welcome,
)
from emu.strategies.registry import StrategyOptions
from tests import slow
from tests.emu.migration.hosts import Migration, await_requests, check_request_log
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from emu.vm.vm import Vm


def _shape(vm: Vm, **changes: Any) -> dict[str, Any]:
    return {"spec": {**required_match(vm.spec, "soft"), **changes}}


_CASES: dict[str, tuple[Callable[[Vm], dict[str, Any]], str]] = {
    "version": (lambda vm: {"version": 1}, f"the source's stream has version 1, not {VERSION}"),
    "vcpus": (lambda vm: _shape(vm, vcpus=7), "vcpus: 7 at the source, 3 at the destination"),
    "memory": (lambda vm: _shape(vm, memory=4096), "memory: 4096 at the source"),
    "ring size": (lambda vm: _shape(vm, ring_size=1), "ring size: 1 at the source"),
    "rings": (
        lambda vm: _shape(vm, devices=["net0x8", "blk0x2", "blk1x2"]),
        "devices: net0x8 at the source only, net0x4 at the destination only",
    ),
    "features": (
        lambda vm: {"features": {"blk1": 1 << 34 | 1 << 41}},
        "blk1: the guest uses feature bits 34, 41, which the destination's back-end lacks",
    ),
    "accelerator": (
        lambda vm: _shape(vm, accelerator="kvm"),
        "accelerator: kvm at the source, soft at the",
    ),
    "streams": (lambda vm: {"streams": 99}, "streams: 99 is not in 1 to 16"),
    "strategy": (lambda vm: {"strategy": "magic"}, "magic"),
    "options": (lambda vm: {"options": {"magic": 1}}, "HELLO is invalid"),
    "a spec that is not an object": (lambda vm: {"spec": "x"}, "HELLO is invalid"),
}


@pytest.mark.parametrize("case", slow.all_but(list(_CASES)[:4], _CASES))
def test_a_mismatch_is_refused_before_any_state_changes(
    vm: Vm, other: Vm, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No dirty log is enabled, no message is sent to a back-end, no vCPU is paused."""
    change, text = _CASES[case]
    touched: list[object] = []
    monkeypatch.setattr(lifecycle, "set_logging", touched.append)
    monkeypatch.setattr(vm, "drive", touched.append)
    monkeypatch.setattr(vm.reconnect, "pause", lambda: touched.append("reconnect"))
    migration = Migration(vm, other, "prewired", tmp_path)
    with pytest.raises(MigrationError, match=r"^destination: handshake: ") as refused:
        migration.run(**change(vm))
    assert text in str(refused.value)
    assert text in str(migration.received[0])
    assert touched == []
    await_requests(vm)
    check_request_log(vm)


def test_one_refusal_names_all_differences(vm: Vm, other: Vm) -> None:
    """The spec's and the disks'."""
    import json

    content = hello(vm, "prewired", StrategyOptions())
    content |= _shape(vm, vcpus=5, accelerator="kvm")
    with pytest.raises(MigrationError, match=r"vcpus: 5 .*; accelerator: kvm .*; no such disk"):
        Handshake.accept(
            json.dumps(content).encode(), other.spec, "soft", other, lambda _disks: ["no such disk"]
        )


def test_an_invalid_hello_or_welcome_is_an_error(other: Vm) -> None:
    """Not JSON, or JSON with other contents."""
    for payload in (b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"version": 3}'):
        with pytest.raises(MigrationError, match="is invalid"):
            Handshake.accept(payload, other.spec, "soft", other)
    for payload in (b"", b"[]", b"{}"):
        with pytest.raises(MigrationError, match="WELCOME is invalid"):
            same_clock(payload)
    assert same_clock(welcome())


def test_a_further_stream_of_another_peer_is_refused(
    vm: Vm, other: Vm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JOIN must have the session of this migration."""
    parameters = Parameters(timeout=TIMEOUT, streams=2)
    migration = Migration(vm, other, "prewired", tmp_path, parameters)
    accept = Handshake.accept

    def another(*arguments: Any) -> Handshake:
        return accept(*arguments)._replace(session="another")

    monkeypatch.setattr(Handshake, "accept", another)
    with pytest.raises(MigrationError, match="not of this migration"):
        migration.run()
    await_requests(vm)
    check_request_log(vm)
