"""The entry point of `emu`: whatever goes wrong is one line on stderr and a status.

Nothing heavy is imported before `main` runs, so that Ctrl-C is answered in the same way while
the program is still loading.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys


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


def _open_closed() -> None:
    """What was closed when the program began leads to nowhere: no socket takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115, PTH123  to the end


def _run() -> int:
    import click

    from emu.commands.group import emu
    from emu.errors import EmuError, OptionError, SignalError
    from vhost_user.errors import VhostUserError

    try:
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
    return status if isinstance(status, int) else 0


def _complain(text: str, status: int) -> int:
    line = " ".join(text.split())
    with contextlib.suppress(OSError, AttributeError):  # it was closed, or its reader has gone
        sys.stderr.write(f"emu: {line}\n")
    return status


if __name__ == "__main__":
    main()
