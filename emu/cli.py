"""The command `emu`."""

from __future__ import annotations

import sys

import click

from emu.commands.migrate import migrate
from emu.commands.options import CONTEXT
from emu.commands.run import run
from emu.errors import EmuError, OptionError, SignalError
from vhost_user.errors import VhostUserError

HELP = """Run and live-migrate VMs whose devices are real vhost-user back-ends.

The VM is emulated; the protocol, the sockets, the rings, the eventfds and the back-end programs
are real.

\b
Examples:
  emu migrate                                 the RFC's VM, three strategies, one table
  emu migrate --net 2x4 --blk 2x2 --vcpus 4 --memory 1G
  emu run --net 2x4 --blk 2x2 --vcpus 4 --memory 1G --for 10s
"""


@click.group(help=HELP, context_settings=CONTEXT)
@click.version_option(package_name="vhost-emu", prog_name="emu")
def emu() -> None:
    """The command."""


emu.add_command(migrate)
emu.add_command(run)


def main() -> None:
    """Run `emu`; every failure is one line on stderr and a status other than 0."""
    try:
        status = emu.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        status = leave.exit_code
    except click.ClickException as error:
        status = _complain(error.format_message(), error.exit_code)
    except SignalError as interrupted:
        status = _complain(str(interrupted), 128 + interrupted.signum)
    except (KeyboardInterrupt, click.Abort):
        status = _complain("ended by SIGINT", 130)
    except OptionError as error:
        status = _complain(str(error), 2)
    except (EmuError, VhostUserError, OSError) as error:
        status = _complain(str(error), 1)
    sys.exit(status if isinstance(status, int) else 0)


def _complain(text: str, status: int) -> int:
    line = " ".join(text.split())
    sys.stderr.write(f"emu: {line}\n")
    return status


if __name__ == "__main__":
    main()
