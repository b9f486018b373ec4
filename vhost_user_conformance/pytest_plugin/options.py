"""The options of the plugin: those of ``emu conform``, with a prefix. Imports pytest alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

#: Options of this plugin begin with it.
PREFIX = "--vhost-user-"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options. The suite checks their values."""
    group = parser.getgroup("vhost-user", "conformance to the vhost-user protocol")
    told = {
        "socket": ("PATH", "Test the back-end that listens there (or the front-end that will)."),
        "exec": ("COMMAND", "Test this program, started where need be; {socket} is the path."),
        "device": ("CLASS", "What device it is: blk, net or fs. Without it none has to serve."),
        "role": ("ROLE", "What is tested: back-end (default) or front-end."),
        "dialect": ("NAME", "Whose numbers, where they are still moving: spec (default), ..."),
        "patience": ("SECONDS", "How long each answer may take; 2 unless told."),
    }
    for name, (metavar, text) in told.items():
        group.addoption(f"{PREFIX}{name}", metavar=metavar, help=text)
    group.addoption(
        f"{PREFIX}scratch",
        action="store_true",
        help="The contents of the disk that the back-end serves may be overwritten. Without it a "
        "disk must be all zeroes, and at most 1 GiB.",
    )
    group.addoption(
        f"{PREFIX}only",
        action="append",
        default=[],
        metavar="ID|AREA",
        help="Run these cases only; may be given several times.",
    )
