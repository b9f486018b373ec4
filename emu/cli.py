"""The entry point of `emu`: each error is one line on stderr and an exit status.

No large module is imported before `main` runs, so that Ctrl-C has the same effect while the
program is still loading.
"""

from __future__ import annotations

from functools import partial
from typing import NoReturn

from backends import console_script
from vhost_user.deferred_signals import deferred_signals

NAME = "emu"
_complain = partial(console_script.complain, NAME)


def main() -> NoReturn:
    """Run `emu` and exit with its status.

    0 is success, 1 a failure, 2 a usage error, and 128 plus the signal's number (130 for Ctrl-C)
    when a signal ended it.
    """
    console_script.run(NAME, _run)


def _run() -> int:
    from emu.distribution import conflict

    if line := conflict():
        return _complain(line, 1)
    import click

    from emu.errors import EmuError, OptionError, SignalError
    from vhost_user.errors import VhostUserError

    try:
        # Options are made here, also of device kinds and strategies of other distributions.
        with deferred_signals():
            from emu.commands.group import emu

        status = emu.main(prog_name=NAME, standalone_mode=False)
    except click.exceptions.Exit as leave:
        status = leave.exit_code
    except click.ClickException as error:
        status = _complain(error.format_message(), error.exit_code)
    except click.Abort:
        status = _complain("ended by SIGINT", console_script.INTERRUPTED)
    except SignalError as signal:
        status = _complain(str(signal), 128 + signal.signum)
    except OptionError as error:
        status = _complain(str(error), 2)
    except (EmuError, VhostUserError) as error:
        status = _complain(str(error), 1)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
