"""The options of the plugin: those of ``emu conform``, with a prefix.

This module imports the table of device classes alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.model.device_class import one_of

if TYPE_CHECKING:
    import pytest

#: Options of this plugin begin with it.
PREFIX = "--vhost-user-"
_WITH_A_VALUE = {
    "socket": (
        "PATH",
        "Test the back-end that listens on this socket, or the front-end that connects to it.",
    ),
    "exec": ("COMMAND", "Test this program, and start it when needed; {socket} is the path."),
    "destination": (
        "COMMAND",
        (
            "Start this program to migrate a front-end's VM to it; {socket} is the socket of its "
            "back-end, {incoming} the unix socket where it has to wait for the VM."
        ),
    ),
    "device": (
        "CLASS",
        f"Device class: {one_of()}. Without it no case sends or serves requests in a ring.",
    ),
    "role": ("ROLE", "What is tested: back-end (default) or front-end."),
    "dialect": (
        "NAME",
        (
            "Whose numbers of protocol features and messages to use: spec (default), "
            "rust-vmm or yc-libvhost."
        ),
    ),
    "shard": (
        "K/N",
        "Run only the K-th of N parts of the cases, such as 2/3. Each case is in one part.",
    ),
    "known": (
        "FILE",
        (
            "A baseline, the ids of the cases that are known to fail: these are expected to fail "
            "(xfail), and one that does not fail any more is a failure."
        ),
    ),
    "patience": ("SECONDS", "Timeout for each answer; 2 by default."),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options. The suite checks their values."""
    group = parser.getgroup("vhost-user", "conformance to the vhost-user protocol")
    for name, (metavar, text) in _WITH_A_VALUE.items():
        group.addoption(f"{PREFIX}{name}", metavar=metavar, help=text)
    group.addoption(
        f"{PREFIX}scratch",
        action="store_true",
        help="Permit the cases to overwrite the contents of the disk that the back-end serves. "
        "Without this option the disk must be all zeroes, and have at most 1 GiB.",
    )
    group.addoption(
        f"{PREFIX}only",
        action="append",
        default=[],
        metavar="ID|AREA",
        help="Run only this case, or the cases of this area; may be given several times.",
    )
