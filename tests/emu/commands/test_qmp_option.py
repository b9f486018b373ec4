"""--qmp, and --incoming of `emu attach`."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.commands.qmp_option import incoming_uri, monitor_path, served_monitor
from emu.errors import OptionError, PreflightError
from vhost_user import unix_socket


@pytest.mark.parametrize(
    "value", ["unix:a/b", "a/b", "unix:a/b,server=on,wait=off", "unix:a/b,server,nowait"]
)
def test_a_socket(value: str) -> None:
    """As QEMU writes it, or the path alone."""
    assert monitor_path(value) == Path("a/b")
    assert monitor_path(None) is None


@pytest.mark.parametrize("value", ["unix:", "", "tcp:127.0.0.1:1", "stdio", "unix:a,server=off"])
def test_what_is_not_a_socket(value: str) -> None:
    """A usage error."""
    with pytest.raises(OptionError, match="--qmp"):
        monitor_path(value)


def test_the_error_names_the_option_if_there_is_one() -> None:
    """`emu top` has an argument."""
    with pytest.raises(OptionError, match=r"^tcp:1: write unix:PATH$"):
        monitor_path("tcp:1", name="")


def test_a_socket_that_cannot_be_is_known_before_the_vm_is_started(tmp_path: Path) -> None:
    """One that another program has left, or has bound, is left to the VM's process."""
    assert served_monitor(None) is None
    with unix_socket.bind(str(tmp_path / "bound")):
        for name in ("new", "bound"):
            assert served_monitor(f"unix:{tmp_path / name}") == tmp_path / name
    (tmp_path / "file").touch()
    for name, why in (("file", "exists and is not a socket"), ("no/qmp", "there is no directory")):
        with pytest.raises(PreflightError, match=f"^--qmp {tmp_path / name}: {why}"):
            served_monitor(str(tmp_path / name))


def test_an_incoming_address() -> None:
    """Defer needs a monitor; the VM's memory must not cross a network in the clear."""
    assert incoming_uri(None, None) is None
    assert incoming_uri("defer", "unix:a") == "defer"
    assert incoming_uri("unix:a", None) == "unix:a"
    with pytest.raises(OptionError, match="defer needs --qmp"):
        incoming_uri("defer", None)
    with pytest.raises(OptionError, match="is not an address"):
        incoming_uri("exec:cat", None)
    with pytest.raises(OptionError, match="is not loopback"):
        incoming_uri("tcp:192.0.2.1:1", None)
