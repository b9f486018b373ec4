"""``--qmp``, and the address of an incoming migration that QMP may give later."""

from __future__ import annotations

from pathlib import Path

import click

from emu.errors import MigrationError, OptionError, PreflightError

_PREFIX = "unix:"

qmp_option = click.option(
    "--qmp",
    metavar="unix:PATH",
    help="Serve QMP, the protocol of QEMU's monitor, at this socket (docs/reference/qmp.md).",
)


def monitor_path(value: str | None, name: str = "--qmp ") -> Path | None:
    """The path of ``unix:PATH``, as in QEMU; a path alone is accepted, too.

    QEMU's options ``server`` and ``wait`` (``unix:PATH,server=on,wait=off``) are what happens here.

    Args:
        value: of the option or the argument.
        name: of the option, for errors.

    Raises:
        OptionError: it is another kind of address, or has other options.
    """
    if value is None:
        return None
    text, *options = value.split(",")
    for option in options:
        if option not in ("server", "server=on", "nowait", "wait=off"):
            raise OptionError(f"{name}{value}: unknown option {option!r}: write unix:PATH")
    path = text.removeprefix(_PREFIX)
    if not path or text.startswith(("tcp:", "stdio")):
        raise OptionError(f"{name}{value}: write unix:PATH")
    return Path(path)


def served_monitor(value: str | None) -> Path | None:
    """The path of ``--qmp``, where a monitor can be served.

    Raises:
        OptionError: see `monitor_path`.
        PreflightError: there can be no socket; another program may have bound it.
    """
    path = monitor_path(value)
    if path is None:
        return None
    if not path.absolute().parent.is_dir():
        folder = path.absolute().parent
        raise PreflightError(f"--qmp {path}: there is no directory {folder}")
    if path.exists() and not path.is_socket():
        raise PreflightError(f"--qmp {path}: exists and is not a socket")
    return path


def incoming_uri(uri: str | None, qmp: str | None) -> str | None:
    """The value of ``--incoming`` of `emu attach`.

    Raises:
        OptionError: the address is invalid, or ``defer`` is given without ``--qmp``.
    """
    from emu.migration import endpoint

    if uri is None:
        return None
    if uri == endpoint.DEFER:
        if qmp is None:
            raise OptionError("--incoming defer needs --qmp, whose migrate-incoming has the URI")
        return uri
    try:
        local = endpoint.is_local(uri)
    except MigrationError as error:
        text = str(error).removeprefix(f"{error.operation}: ")
        raise OptionError(f"--incoming {text}") from None
    if not local:
        raise OptionError(
            f"--incoming {uri} is not loopback: use emu run --incoming, which has TLS"
        )
    return uri
