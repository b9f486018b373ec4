"""A destination refuses a VM that differs from its own, before the source changes any state."""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import lifecycle
from emu.config.migration_parameters import Parameters
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import MigrationError
from emu.json_input import JsonInputError, read
from emu.migration.completion import OF_DESTINATION, OF_SOURCE
from emu.migration.disk_comparison import differences
from emu.migration.handshake import (
    VERSION,
    Handshake,
    hello,
    required_match,
    same_clock,
    welcome,
)
from emu.migration.history import SHAPE, History
from emu.report.load_results import IncomingReport
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
    alone = json.dumps({"version": VERSION}).encode()
    for payload in (b"", b"{", b"[]", b"\xff\xfe", b"null", alone):
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


def _places(value: object) -> list[tuple[Any, Any]]:
    """Each container in a document, with each of its keys."""
    if isinstance(value, dict):
        return [(value, key) for key in value] + [p for v in value.values() for p in _places(v)]
    if isinstance(value, list):
        return [(value, at) for at in range(len(value))] + [p for v in value for p in _places(v)]
    return []


#: What may stand anywhere in a message, in Python's dialect of JSON.
_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 66), 1 << 66),
    st.floats(),
    st.text(st.characters(), max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("message", ["HELLO", "WELCOME", "PREPARED", "COMPLETION", "REPORT"])
def test_a_message_with_another_value_anywhere_is_read_or_refused(
    message: str, data: st.DataObject
) -> None:
    """Of each JSON message of the stream: a `MigrationError` (or a ValueError of a shape) only."""
    spec = VmSpec(1, 64 << 20, (DeviceGroup("blk", 1, 1),))
    ns = {"src": {"split": [1, {"blk0": {"src.get_vring_base": 5}}, 9, {"src.final_ram": 7}]}}
    span = ["src", "blk", "blk0", 0, "src.get_vring_base", 1, 2, 1, True]
    documents: dict[str, dict[str, Any]] = {
        "HELLO": {
            "version": VERSION,
            "spec": required_match(spec, "soft"),
            "features": {"blk0": 1},
            "disks": {"mark": "x", "disk": {"size": 5, "sha256": "0"}},
            "strategy": "split",
            "options": {"threads": 1, "processes": 1, "unsafe": ""},
            "streams": 1,
            "session": "x",
            "clock": "x",
            "report": True,
            "stopped": True,
        },
        "WELCOME": {"version": VERSION, "clock": "x"},
        "PREPARED": {"start_ns": 5, "history": {**ns, "notifiers": [1, 2, 3, 4]}},
        "COMPLETION": {
            "spans": [span],
            "marks": {"running_ns": 9},
            "commits": 1,
            "guest_gap_ns": 5,
        },
        "REPORT": {
            "strategy": "split",
            "downtime_ns": 1,
            "downtime_error_ns": None,
            "precopy": {"bytes": 1, "rounds": 1},
            "served": 3,
        },
    }
    document = documents[message]
    for _ in range(data.draw(st.integers(1, 3))):
        places = _places(document)
        container, key = data.draw(st.sampled_from(places))
        if data.draw(st.booleans()):
            container[key] = data.draw(_VALUES)
        else:
            del container[key]
        if not _places(document):
            break
    payload = json.dumps(document).encode()
    with contextlib.suppress(MigrationError, JsonInputError):
        if message == "HELLO":
            Handshake.accept(payload, spec, "soft", None, partial(differences, {"images": "/"}))
        elif message == "WELCOME":
            same_clock(payload)
        elif message == "PREPARED":
            with contextlib.suppress(ValueError):  # a phase that is unknown
                History().merge(read(payload, SHAPE))
        else:
            report = read(payload, OF_SOURCE if message == "REPORT" else OF_DESTINATION)
            IncomingReport.from_json(report)
