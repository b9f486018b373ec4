"""`emu conform peers`: tests many peers, in parts that run on workers."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from rich.text import Text

from backends.options import FilePath, option_group
from emu.commands import written_file
from emu.commands.color_option import color_option
from emu.commands.option_values import values_of
from emu.commands.report_option import command_line
from emu.commands.scheduler_options import scheduler_options
from emu.errors import EmuError, OptionError, PreflightError
from vhost_user.console import console_for

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from emu.cluster.worker import Output
    from emu.conformance.peer_verdicts import PeerVerdicts
    from emu.conformance.peers_file import Peer
    from vhost_user_conformance.model.result import Known

HELP = """Test all peers of a TOML file, in parts that workers of dask.distributed run.

FILE has a table for each peer: exec is its command, as with --exec; role ("back-end" or
"front-end"), device, dialect, patience, scratch, destination, only (a list) and known are the other
options of `emu conform`. The cases of each peer are divided into --shards parts, as --shard does,
and each worker runs one part at a time.

\b
Examples:
  emu conform peers peers.toml
  emu conform peers peers.toml --workers 4 --shards 8 --out verdicts
  emu conform peers peers.toml --scheduler tcp://HOST:8786

The exit status is 0 if no case of any peer failed, 1 if one failed or a peer could not be tested,
and 2 for an invalid file or option.
"""


@dataclass(frozen=True, slots=True)
class PeersOptions:
    """The values of the options."""

    file: Path
    scheduler: str
    workers: int | None
    shards: int
    out: Path | None
    strict: bool
    quiet: bool


@click.command("peers", help=HELP, short_help="Test many peers on workers.")
@click.argument("file", type=FilePath())
@click.option(
    "--shards",
    type=click.IntRange(1, 1000),
    default=4,
    show_default=True,
    metavar="N",
    help="Parts of the cases of each peer.",
)
@click.option(
    "--out",
    type=FilePath(),
    metavar="DIR",
    help="Write the verdicts of each peer to DIR/PEER.json, as emu conform --json does.",
)
@click.option("--strict", is_flag=True, help="Exit with status 1 also if a case ended as ERROR.")
@click.option("-q", "--quiet", is_flag=True, help="Print only FAIL and ERROR.")
@option_group(*scheduler_options("run the parts", default="local"))
@color_option
def peers(**options: Any) -> None:
    """Read the file, run all parts, and print the verdicts."""
    from emu.cluster.scheduler import check_scheduler
    from emu.conformance import peers_file
    from emu.conformance.peer_verdicts import PeerVerdicts

    own = values_of(PeersOptions, options)
    check_scheduler(own.scheduler, own.workers)
    tested = [PeerVerdicts(peer, _known(peer)) for peer in peers_file.read(own.file)]
    if own.out is not None:
        try:
            own.out.mkdir(exist_ok=True)
        except OSError as error:
            raise PreflightError(f"--out {own.out}: {error.strerror}") from None
    ended = _run(own, tested)
    _print(own, tested)
    if ended is not None:
        raise ended
    if failures := [each for each in tested if each.failure(strict=own.strict)]:
        from emu.report.cells import counted

        first = failures[0]
        raise EmuError(
            f"{len(failures)} of {counted(len(tested), 'peer')} failed, such as "
            f"{first.peer.name}: {first.failure(strict=own.strict)}"
        )


def _known(peer: Peer) -> Mapping[str, Known]:
    """The known failures of a peer, by the ids of the cases."""
    from vhost_user_conformance.errors import OptionError as BaselineError
    from vhost_user_conformance.model import baseline
    from vhost_user_conformance.target import cases_of

    if peer.known is None:
        return {}
    try:
        return baseline.read("known", peer.known, cases_of(peer.target.role))
    except OSError as error:
        raise PreflightError(f"[{peer.name}]: known {peer.known}: {error.strerror}") from None
    except BaselineError as error:
        raise OptionError(f"[{peer.name}]: {error}") from None


def _run(own: PeersOptions, tested: Sequence[PeerVerdicts]) -> EmuError | None:
    """Run all parts; the error that has ended them early, if any."""
    from emu.cluster.scheduler import run_on_workers
    from emu.conformance import parts
    from emu.orchestrator.signals import SignalWatcher
    from emu.report import progress

    for each in tested:
        each.tasks = parts.tasks(each.peer, own.shards)
    work = [(each, task) for each in tested for task in each.tasks]
    with SignalWatcher() as watcher, progress.make(quiet=own.quiet) as shown:
        outputs = run_on_workers(
            own.scheduler,
            own.workers,
            [task for _, task in work],
            watcher=watcher,
            progress=shown,
        )
        try:
            with closing(outputs):
                for done, (number, output) in enumerate(outputs, 1):
                    each, task = work[number]
                    each.add(task, output)
                    shown.done(f"{done} of {len(work)}: {task.label}{_said(output)}")
                    if own.out is not None and each.whole is not None:
                        _write(own.out, each)
        except EmuError as error:
            return error
    return None


def _said(output: Output) -> str:
    return f": {output.failure}" if output.status is None else ""


def _write(out: Path, verdicts: PeerVerdicts) -> None:
    document = {**verdicts.document(), "command": command_line()}
    path = out / f"{verdicts.peer.name}.json"
    written_file.write("--out", path, json.dumps(document, indent=1) + "\n")


def _print(own: PeersOptions, tested: Sequence[PeerVerdicts]) -> None:
    """The failures of each peer, and a table of all peers."""
    from emu.conformance.peer_verdicts import table
    from vhost_user_conformance.report import terminal

    console = console_for(sys.stdout)
    for each in tested:
        if each.whole is not None and each.failure(strict=True):
            console.print(Text(f"{each.peer.name}:"))
            terminal.print_failures(console, each.whole.results)
        elif each.whole is None:
            console.print(Text(f"{each.peer.name}: {each.failure(strict=True)}"), soft_wrap=True)
    if not own.quiet:
        console.print(table(tested))
