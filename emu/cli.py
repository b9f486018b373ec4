"""The entry point of `emu`: each error is one line on stderr and an exit status.

No large module is imported before `main` runs, so that Ctrl-C has the same effect while the
program is still loading.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NoReturn

from backends import console_script
from vhost_user.deferred_signals import deferred_signals

if TYPE_CHECKING:
    from collections.abc import Callable

NAME = "emu"


def main() -> NoReturn:
    """Run `emu` and exit with its status.

    0 is success, 1 a failure, 2 a usage error, and 128 plus the signal's number (130 for Ctrl-C)
    when a signal ended it.
    """
    console_script.run(NAME, _run)


def _run() -> int:
    from emu.distribution import conflict

    if line := conflict():
        return console_script.complain(NAME, line, 1)
    return exit_status(NAME, _emu)


def _emu() -> object:
    # Options are made here, also of device kinds and strategies of other distributions.
    with deferred_signals():
        from emu.commands.group import emu

    return emu.main(prog_name=NAME, standalone_mode=False)


def exit_status(name: str, command: Callable[[], object]) -> int:
    """Run a command of click, not in its standalone mode; print its error, and return its status.

    Args:
        name: of the program, for the line.
        command: runs it; returns the status if it has one of its own.
    """
    import click

    from emu.errors import EmuError, OptionError, SignalError
    from vhost_user.errors import VhostUserError

    complain = partial(console_script.complain, name)
    try:
        status = command()
    except click.exceptions.Exit as leave:
        status = leave.exit_code
    except click.ClickException as error:
        status = complain(error.format_message(), error.exit_code)
    except click.Abort:
        status = complain("ended by SIGINT", console_script.INTERRUPTED)
    except SignalError as signal:
        status = complain(str(signal), 128 + signal.signum)
    except OptionError as error:
        status = complain(str(error), 2)
    except (EmuError, VhostUserError) as error:
        status = complain(str(error), 1)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
