"""QEMU's names of parameters and capabilities."""

from __future__ import annotations

import pytest

from emu.errors import EmuError
from emu.vm_process.control import Control
from emu.vm_process.migration_settings import MigrationSettings


@pytest.fixture
def control() -> Control:
    """Of a process without a VM."""
    return Control(lambda _name, _data: None)


def test_parameters(control: Control) -> None:
    """All or none are set; both spellings of a name are accepted, as in QEMU's own clients."""
    settings = MigrationSettings(control)
    settings.set_parameters({"downtime-limit": 7, "x-deadline": 2, "multifd_channels": 3})
    assert control.parameters.downtime_limit == 7
    assert control.parameters.timeout == 2.0
    assert settings.parameters() == {
        "downtime-limit": 7,
        "max-bandwidth": 0,
        "multifd-channels": 3,
        "x-deadline": 2.0,
        "x-on-no-converge": "switch",
        "x-check-locks": False,
    }
    with pytest.raises(EmuError, match="'streams' is unexpected"):
        settings.set_parameters({"downtime-limit": 8, "streams": 2})
    assert control.parameters.downtime_limit == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("downtime-limit", -1),
        ("downtime-limit", 2_000_001),
        ("downtime-limit", "1"),
        ("max-bandwidth", 1.5),
        ("multifd-channels", 0),
        ("multifd-channels", True),
        ("x-on-no-converge", "no"),
        ("x-check-locks", 1),
    ],
)
def test_a_parameter_that_is_invalid(control: Control, name: str, value: object) -> None:
    """An error, and nothing is set."""
    before = control.parameters
    with pytest.raises(EmuError):
        MigrationSettings(control).set_parameters({name: value})
    assert control.parameters == before


def test_multifd_needs_its_capability(control: Control) -> None:
    """As in QEMU, the number of channels has no effect without it."""
    settings = MigrationSettings(control)
    settings.set_parameters({"multifd-channels": 4})
    assert control.parameters.streams == 1
    settings.set_capabilities([{"capability": "multifd", "state": True}])
    assert control.parameters.streams == 4
    settings.set_parameters({"multifd-channels": 3})
    assert control.parameters.streams == 3
    settings.set_capabilities([{"capability": "multifd", "state": False}])
    assert control.parameters.streams == 1


def test_capabilities(control: Control) -> None:
    """Those of QEMU that are not supported may be switched off."""
    settings = MigrationSettings(control)
    settings.set_capabilities(
        [
            {"capability": "auto-converge", "state": True},
            {"capability": "xbzrle", "state": False},
            {"capability": "events", "state": False},
            {"capability": "return-path", "state": True},
        ]
    )
    assert control.parameters.auto_converge
    assert not settings.events
    states = {entry["capability"]: entry["state"] for entry in settings.capabilities()}
    assert states == {"auto-converge": True, "events": False, "multifd": False, "return-path": True}


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"capability": "postcopy-ram", "state": True}, "is not supported"),
        ({"capability": "return-path", "state": False}, "is always on"),
        ({"capability": "bogus", "state": True}, "does not accept value 'bogus'"),
        ({"capability": "events"}, "Invalid parameter"),
        ({"capability": "events", "state": 1}, "Invalid parameter"),
        ({"capability": "events", "state": True, "more": 1}, "Invalid parameter"),
    ],
)
def test_a_capability_that_is_invalid(
    control: Control, entry: dict[str, object], text: str
) -> None:
    """An error, and nothing is set."""
    settings = MigrationSettings(control)
    with pytest.raises(EmuError, match=text):
        settings.set_capabilities([{"capability": "auto-converge", "state": True}, entry])
    assert not control.parameters.auto_converge


def test_capabilities_are_not_changed_during_a_migration(
    control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in QEMU."""
    settings = MigrationSettings(control)
    monkeypatch.setattr(Control, "sending", True)
    with pytest.raises(EmuError, match="There's a migration process in progress"):
        settings.set_capabilities([{"capability": "multifd", "state": True}])
    monkeypatch.undo()
    settings.set_capabilities([{"capability": "multifd", "state": True}])
