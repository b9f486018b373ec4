"""The entry point of `emu`: each error is one line on stderr and an exit status.

No large module is imported before `main` runs, so that Ctrl-C has the same effect while the
program is still loading.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from typing import NoReturn

#: Streams that stay open to the end of the process.
_KEPT: list[object] = []


def main() -> None:
    """Run `emu` and exit with its status.

    0 is success, 1 a failure, 2 a usage error, and 128 plus the signal's number (130 for Ctrl-C)
    when a signal ended it.
    """
    _open_closed()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets another one, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        sys.exit(_run())
    except KeyboardInterrupt:
        sys.exit(_complain("ended by SIGINT", 130))


class _ClosedStdout(io.TextIOBase):
    """Standard output that was closed when the program began: a report cannot be printed."""

    def write(self, _text: str) -> NoReturn:
        from emu.errors import EmuError

        raise EmuError("standard output is closed: the report cannot be printed")


def _open_closed() -> None:
    """Open /dev/null for each closed standard stream, so that no socket gets its descriptor."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = open(os.devnull, mode)  # noqa: SIM115, PTH123  stays open to the end
            setattr(sys, name, null)
            if name == "stdout":
                _KEPT.append(null)
                sys.stdout = _ClosedStdout()


def _run() -> int:
    from emu.distribution import conflict

    if line := conflict():
        return _complain(line, 1)
    import click

    from emu.errors import EmuError, OptionError, SignalError
    from vhost_user.errors import VhostUserError

    try:
        # Options are made here, also of device kinds and strategies of other distributions.
        from emu.commands.group import emu

        status = emu.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        status = leave.exit_code
    except click.ClickException as error:
        status = _complain(error.format_message(), error.exit_code)
    except click.Abort:
        status = _complain("ended by SIGINT", 130)
    except SignalError as signal:
        status = _complain(str(signal), 128 + signal.signum)
    except OptionError as error:
        status = _complain(str(error), 2)
    except (EmuError, VhostUserError, OSError) as error:
        status = _complain(str(error), 1)
    return _flushed(status if isinstance(status, int) else 0)


def _flushed(status: int) -> int:
    """The status; or 1 instead of 0 if the rest of the output cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # The interpreter flushes once more at its end.
        with contextlib.suppress(OSError), open(os.devnull, "wb") as null:  # noqa: PTH123
            os.dup2(null.fileno(), 1)
        if status == 0 and not isinstance(error, BrokenPipeError):
            _complain(f"standard output: {error.strerror}", 1)
        return status or 1
    return status


def _complain(text: str, status: int) -> int:
    line = " ".join(text.split())
    with contextlib.suppress(OSError, AttributeError):  # stderr is closed, or has no reader
        sys.stderr.write(f"emu: {line}\n")
    return status


if __name__ == "__main__":
    main()
