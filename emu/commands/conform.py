"""`emu conform`: tests a back-end or a front-end for conformance to vhost-user."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from emu.commands import validate
from emu.commands.baseline import Baseline
from emu.commands.color_option import color_option
from emu.commands.command_group import CommandGroup, need_subcommand
from emu.commands.conform_options import ConformOptions, conform_options
from emu.commands.conform_peers import peers
from emu.commands.json_output import deliver, report_stream
from emu.commands.openmetrics_option import deliver_conformance
from emu.commands.option_values import values_of
from emu.commands.report_option import command_line
from emu.commands.trace_option import case_trace_option
from emu.errors import EmuError, OptionError, PreflightError, SignalError
from vhost_user.console import console_for
from vhost_user_conformance import errors as conformance
from vhost_user_conformance.model.case import BACK_END, FRONT_END
from vhost_user_conformance.target import Target, cases_of, select, shard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import FrameType
    from typing import Self

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.model.result import CaseResult
    from vhost_user_conformance.peer.runner import CaseRunner


HELP = """Test a back-end or a front-end for conformance to the vhost-user protocol.

\b
Examples:
  emu conform back-end --exec 'my-backend {socket}'   the protocol only
  emu conform back-end --device blk ...               OVERWRITES the disk
  emu conform front-end --device blk --exec 'my-vmm ... {socket}'
  emu conform peers peers.toml                        many peers, in parts on workers
"""

BACK_END_HELP = """Test a back-end that listens at --socket, or that --exec starts.

With --device blk the cases OVERWRITE THE DISK that the back-end serves. The command first reads
the disk through the device; it refuses a disk that is not all zeroes or has more than 1 GiB,
unless --scratch is given. Without --device no case sends requests in a ring.

The report begins with the cases that failed, MUST before SHOULD.

\b
Examples:
  truncate -s 64M scratch.img
  emu conform back-end --device blk --exec 'my-backend {socket} scratch.img'
  emu conform back-end --socket vhost.sock --only framing --only VU-B-0401
  emu conform back-end --socket vhost.sock --write-known known.txt
  emu conform back-end --socket vhost.sock --known known.txt
  emu conform back-end --socket vhost.sock --shard 2/3
  emu conform back-end --socket vhost.sock --report verdicts.html
  emu conform back-end --list

Ctrl-C, SIGTERM and --total-time end the run early; the report and the files then have the verdicts
so far.

The exit status is 0 if no case failed, 1 if a case failed, the back-end could not be reached or
--total-time ended the run, and 2 for an invalid option. With --known a case of the file may fail,
and the status is 1 if it no longer does.
"""

FRONT_END_HELP = """Test a front-end: the suite listens on a socket and acts as the back-end.

With --exec the program is started again for each session. If it serves QMP at {qmp}, the suite also
stops, continues and resets its VM, and logs its dirty memory (stop, cont, system_reset, migrate or
calc-dirty-rate). With --destination it also migrates the VM; for QEMU that is the same command with
"-incoming unix:{incoming}". The guest may take ten times --patience to start a ring.

\b
Examples:
  emu conform front-end --device blk --exec 'qemu-system-x86_64 -m 256
    -nodefaults -nographic -machine q35,memory-backend=m
    -object memory-backend-memfd,id=m,size=256M,share=on
    -chardev socket,id=c,path={socket}
    -device vhost-user-blk-pci,chardev=c,bootindex=0
    -qmp unix:{qmp},server=on,wait=off'
  emu conform front-end --socket /tmp/vhost.sock --only framing
  emu conform front-end --list

Ctrl-C, SIGTERM and --total-time end the run early; the report and the files then have the verdicts
so far.

The exit status is 0 if no case failed, 1 if a case failed, no front-end connected or --total-time
ended the run, and 2 for an invalid option. With --known a case of the file may fail, and the status
is 1 if it no longer does.
"""


@click.group(
    cls=CommandGroup,
    help=HELP,
    short_help="Test a back-end or a front-end for conformance.",
    invoke_without_command=True,
)
@color_option
@click.pass_context
def conform(context: click.Context) -> None:
    """The command."""
    need_subcommand(context)


@conform.command("back-end", help=BACK_END_HELP, short_help="Test a back-end.")
@conform_options(BACK_END)
@case_trace_option
@color_option
def back_end(**options: Any) -> None:
    """Test a back-end."""
    _conform(BACK_END, values_of(ConformOptions, options))


@conform.command("front-end", help=FRONT_END_HELP, short_help="Test a front-end.")
@conform_options(FRONT_END)
@case_trace_option
@color_option
def front_end(**options: Any) -> None:
    """Test a front-end."""
    _conform(FRONT_END, values_of(ConformOptions, options))


conform.add_command(peers)


@contextmanager
def _errors_as_emu_errors() -> Iterator[None]:
    """Convert the suite's errors to those of the other commands."""
    try:
        yield
    except conformance.OptionError as error:
        raise OptionError(str(error)) from None
    except conformance.ConformanceError as error:
        raise EmuError(str(error)) from None


@_errors_as_emu_errors()
def _conform(role: str, options: ConformOptions) -> None:
    baseline = Baseline.of(options, cases_of(role))
    chosen = select(cases_of(role), options.only)
    if options.shard is not None:
        chosen = shard(chosen, *options.shard)
    validate.output_file("--json", options.json_file, takes_stdout=True)
    validate.output_file("--junitxml", options.junitxml)
    if options.listed:
        _list(chosen, role, options)
        return
    target = Target(
        role,
        options.path,
        options.command,
        options.device or "",
        options.dialect,
        options.patience,
        scratch=options.scratch,
        destination=options.destination,
    )
    with _Signals(options.total_time) as signals, target.opened() as runner:
        try:
            signals.watch()
            _run(runner, chosen, role, options, signals, baseline)
        finally:
            signals.clean_up()
        if runner.gone:
            raise EmuError(runner.gone)


class _Interrupted(BaseException):
    """A signal that ends the run, at any point."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


class _Signals:
    """SIGINT, SIGTERM and SIGHUP end the run, and the program under test with it.

    The end of the total time does the same, by SIGALRM. An exception that a handler raises may be
    lost in a callback of the interpreter; so `check` is called after each case. During the
    clean-up, which takes a few seconds at most, a signal is only recorded.

    Args:
        total_time: seconds, or None for no limit.

    Raises:
        SignalError: at the end of the context, if a signal arrived.
        EmuError: the total time was over.
    """

    def __init__(self, total_time: float | None) -> None:
        self._total_time = total_time
        self._signum = 0
        self._raises = True
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._raises = False  # until all handlers are installed, and the exception is caught
        for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(each) is not signal.SIG_IGN:  # as nohup, or a shell, has set it
                self._before[each] = signal.signal(each, self._handle)
        if self._total_time is not None:
            self._before[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._handle)
            signal.setitimer(signal.ITIMER_REAL, self._total_time)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_rest: object) -> None:
        if self._total_time is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for each, handler in self._before.items():
            signal.signal(each, handler)
        if self._signum and (kind is None or issubclass(kind, _Interrupted)):
            if self._signum == signal.SIGALRM:
                raise EmuError(
                    f"--total-time: the run ended after {self._total_time:g} s"
                ) from None
            raise SignalError(self._signum, signal.Signals(self._signum).name) from None

    def watch(self) -> None:
        """Let signals interrupt the run from now on."""
        self._raises = True
        self.check()

    def check(self) -> None:
        """End the run if a signal arrived."""
        if self._signum:
            raise _Interrupted(self._signum)

    def clean_up(self) -> None:
        """Only record signals from now on."""
        self._raises = False

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self._signum = self._signum or signum
        if self._raises:
            raise _Interrupted(signum)


def _list(cases: Sequence[Case], role: str, options: ConformOptions) -> None:
    from vhost_user_conformance.model.result import SCHEMA, described
    from vhost_user_conformance.report import terminal

    if options.json_file is None:
        terminal.print_cases(console_for(sys.stdout), cases)
        return
    whole = {"schema": SCHEMA, "role": role, "cases": [described(case) for case in cases]}
    deliver(options.json_file, whole)


def _run(
    runner: CaseRunner,
    cases: Sequence[Case],
    role: str,
    options: ConformOptions,
    signals: _Signals,
    baseline: Baseline,
) -> None:
    from emu.report.progress import LineProgress, SilentProgress
    from vhost_user_conformance.model.result import document
    from vhost_user_conformance.model.verdict import Verdict
    from vhost_user_conformance.report import terminal

    offered = runner.probe()
    runner.guard(cases)
    console = console_for(sys.stderr)
    # A dumb terminal gets a line now and then; a pipe or a file gets errors only.
    lines = LineProgress(sys.stderr) if console.is_dumb_terminal else SilentProgress()
    lines.step(f"{role}: {len(cases)} cases")
    results: list[CaseResult] = []
    interrupted: _Interrupted | None = None
    with terminal.CaseProgress(console, role, len(cases)) as live:

        def finished(result: CaseResult) -> None:
            results.append(baseline.marked(result))
            number, last = len(results), f"{result.case.id} {result.verdict}"
            live.show(number, last)
            lines.advance(f"{number} of {len(cases)}, {last}", number, len(cases))
            signals.check()

        try:
            runner.run(cases, finished)
        except _Interrupted as arrived:
            interrupted = arrived
            signals.clean_up()
    not_run = len(cases) - len(results)
    # The report is printed before the files are written, as the disk may be full; the files are
    # also written if the report cannot be printed.
    try:
        _print(role, results, options, not_run)
    finally:
        whole = document(
            role,
            runner.describe(),
            offered.to_json(),
            results,
            not_run=not_run,
            known=baseline.used,
        )
        whole["command"] = command_line()
        deliver(options.json_file, whole)
        deliver_conformance(options.openmetrics, whole)
        _write_junit(role, results, options.junitxml)
        options.files.deliver("conformance_page", whole)
    if interrupted is not None:
        raise interrupted
    if baseline.write(results):
        return
    baseline.check(results)
    bad = {Verdict.FAIL, Verdict.ERROR} if options.strict else {Verdict.FAIL}
    if any(result.verdict in bad and result.known is None for result in results):
        raise click.exceptions.Exit(1)


def _print(role: str, results: Sequence[CaseResult], options: ConformOptions, not_run: int) -> None:
    from vhost_user_conformance.report import terminal

    out = console_for(report_stream(options.json_file))
    if options.quiet:
        terminal.print_failures(out, results)
    else:
        terminal.print_report(out, role, results, verbose=options.verbose)
    if not_run:
        terminal.print_not_run(out, not_run)


def _write_junit(role: str, results: Sequence[CaseResult], path: Path | None) -> None:
    from vhost_user_conformance.report.junit import write_junit

    if path is None:
        return
    try:
        write_junit(path, role, results)
    except OSError as error:
        raise PreflightError(f"--junitxml {path}: {error.strerror}") from None
