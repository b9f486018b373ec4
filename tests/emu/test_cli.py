"""The command line: error lines, exit statuses, and the end of a run."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
import pytest

from emu import cli
from emu.commands import validate
from tests import slow
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import running, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

EMU = (sys.executable, "-m", "emu.cli")
SHAPE = ("--net", "2x4", "--blk", "2x2", "--vcpus", "2", "--memory", "256M")
SMALL = (*SHAPE, "--accel", "soft")


def emu(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `emu`, and wait for its end."""
    return subprocess.run(
        [*EMU, *arguments], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("migrate", "--strategy", "magic"), 2, "unknown strategy 'magic'"),
        (("migrate", "--net", "16"), 2, "--net '16' is not a shape"),
        (("migrate", "--blk", "2x300"), 2, "at most 256 rings"),
        (("migrate", "--memory", "much"), 2, "'much' is not a size"),
        (("migrate", "--stop-time", "soon"), 2, "'soon' is not a duration"),
        (("migrate", "--costs", "free"), 2, "'free' is not one of"),
        (("migrate", "--repeat", "0"), 2, "0 is not in the range"),
        (("migrate", "--vm", "/none.toml"), 1, "No such file"),
        (("migrate", "--disk", "/none.img"), 1, "--disk /none.img: No such file"),
        (("migrate", "--json", "/none/out.json"), 1, "there is no directory /none"),
        (("migrate", "--json", "/dev/null/x"), 1, "there is no directory /dev/null"),
        (("migrate", "--json", "/dev"), 1, "/dev is neither a file nor a pipe"),
        (("migrate", "--strategy", ""), 2, "unknown strategy ''"),
        (("sweep", "--strategy", ""), 2, "unknown strategy ''"),
        (("migrate", "--strategy", "split,threads,split"), 2, "split is there twice"),
        (("sweep", "--strategy", "split, split"), 2, "split is there twice"),
        (("migrate", "--strategy", ","), 2, "unknown strategy ''"),
        (("sweep", "--devices", "2,4,2"), 2, "a number is there twice"),
        (("migrate", "--max-bandwidth", "1"), 2, "the least is 820 bytes a second"),
        (("sweep", "--max-bandwidth", "100", "--deadline", "1m"), 2, "the least is 137 bytes"),
        (("migrate", "--json", "x" * 300), 1, "File name too long"),
        (("migrate", "--net", "99999999999x2"), 2, "is not a shape"),
        (("migrate", "--vm", "/dev/zero"), 1, "/dev/zero: is not a regular file"),
        (("migrate", "extra"), 2, "unexpected extra argument"),
        (("run", "--for", "0"), 2, "--for 0"),
        (("run", "--load", "much"), 2, "'much' is not one of"),
        (("fly",), 2, "No such command 'fly'"),
        (("conform", "fly"), 2, "No such command 'fly'"),
        (("--nonsense",), 2, "No such option '--nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_a_status(
    arguments: tuple[str, ...], status: int, line: str
) -> None:
    """Stdout is empty."""
    result = emu(*arguments)
    assert result.returncode == status
    assert line in result.stderr
    assert result.stderr.startswith("emu: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "owners"),
    [
        (("conform", "--list"), "emu conform back-end or emu conform front-end"),
        (("conform", "--scratch"), "emu conform back-end"),
        (("--junitxml", "x"), "emu conform back-end or emu conform front-end"),
        (("--repeat", "3", "migrate"), "emu migrate or emu sweep"),
        (("-s", "split"), "emu migrate or emu sweep"),
    ],
)
def test_an_option_of_a_subcommand_is_not_called_unknown(
    arguments: tuple[str, ...], owners: str
) -> None:
    """It is written too early; the line names the commands that have it."""
    result = emu(*arguments)
    option = next(word for word in arguments if word.startswith("-"))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        f"emu: {option} is an option of a subcommand: write it after {owners}\n"
    )


def test_help_has_examples() -> None:
    """For each command."""
    for command in ((), ("migrate",), ("run",)):
        result = emu(*command, "--help")
        assert result.returncode == 0
        assert "Examples:\n" in result.stdout


def test_without_a_command_the_help_is_printed() -> None:
    """With its line breaks, and the status of a usage error."""
    result = emu()
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == emu("--help").stdout
    result = emu("conform")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == emu("conform", "--help").stdout


#: Commands that print to stdout, each in its own way.
REPORTS = {
    "version": ("--version",),
    "help": ("conform", "--help"),
    "doctor": ("doctor",),
    "migrate": ("migrate", *SMALL, "--strategy", "split"),
    "migrate-json": ("migrate", *SMALL, "--strategy", "split", "--json", "-"),
    "run": ("run", *SMALL, "--for", "200ms"),
    "list": ("conform", "back-end", "--list"),
    "list-json": ("conform", "back-end", "--list", "--json", "-"),
    "conform": (
        *("conform", "back-end", "--only", "VU-B-0101", "--exec"),
        f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}",
    ),
}


def in_a_shell(arguments: Sequence[str], redirections: str) -> subprocess.CompletedProcess[str]:
    """Run `emu` with these redirections."""
    command = f"{shlex.join([*EMU, *arguments])} {redirections}"
    return subprocess.run(
        ["sh", "-c", command], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )


@pytest.mark.parametrize("report", slow.all_but({"version", "list", "conform"}, REPORTS))
@pytest.mark.parametrize(
    ("redirections", "text"),
    [(">&-", "emu: standard output is closed"), (">/dev/full", "No space left on device")],
    ids=["closed", "full"],
)
def test_a_report_that_cannot_be_printed_is_an_error(
    report: str, redirections: str, text: str
) -> None:
    """Of one line, with status 1."""
    result = in_a_shell(REPORTS[report], redirections)
    assert (result.returncode, result.stdout) == (1, "")
    assert text in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize("redirections", ["2>&-", "<&-", "<&- 2>&-"])
def test_other_closed_streams_change_nothing(redirections: str) -> None:
    """The report is printed."""
    result = in_a_shell(REPORTS["list"], redirections)
    assert (result.returncode, result.stderr) == (0, "")
    assert "VU-B-0101" in result.stdout


def test_verdicts_are_written_to_files_though_stdout_is_closed(tmp_path: Path) -> None:
    """So the results of a long run are not lost."""
    out, junit = tmp_path / "out.json", tmp_path / "out.xml"
    files = ("--json", str(out), "--junitxml", str(junit))
    result = in_a_shell((*REPORTS["conform"], *files), ">&-")
    assert result.returncode == 1
    assert json.loads(out.read_text())["summary"]["PASS"] == 1
    assert junit.exists()
    # With --quiet there is no output.
    assert in_a_shell((*REPORTS["conform"], *files, "--quiet"), ">&-").returncode == 0


def test_a_closed_pipe_is_not_an_error_message() -> None:
    """As with ``emu ... | head``."""
    result = in_a_shell(REPORTS["list"], "| head -n 1")
    assert result.stdout.count("\n") == 1
    assert result.stderr == ""


def test_the_version_is_that_of_the_package() -> None:
    """`emu --version` prints it."""
    from importlib.metadata import version

    assert version("vhost-emu") in emu("--version").stdout


#: Commands that make sockets in the temporary directory, and of their own accord nowhere else.
MAKE_SOCKETS = {
    "migrate": ("migrate", *SMALL),
    "migrate --to": ("migrate", *SMALL, "--to", "tcp:127.0.0.1:1", "--images", "."),
    "migrate --network": ("migrate", *SMALL, "--network", "netns"),
    "run": ("run", *SMALL),
    "run --incoming": ("run", *SMALL, "--incoming", "tcp:127.0.0.1:0", "--images", "."),
    "sweep": ("sweep", "--devices", "2", "--rings", "2", "--accel", "soft"),
}


@pytest.fixture
def long_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary directory, of all programs that a test starts, with a long name."""
    long = tmp_path / ("x" * 90)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    return long


@pytest.mark.parametrize("role", ["back-end", "front-end"])
def test_conform_has_its_sockets_elsewhere(role: str, long_directory: Path) -> None:
    """In /tmp, as it has no sockets that several processes have to find."""
    commands = {
        "back-end": f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}",
        "front-end": f"{shlex.quote(sys.executable)} -m emu.cli attach --net {{socket}}",
    }
    case = {"back-end": "VU-B-0101", "front-end": "VU-F-0101"}[role]
    result = emu("conform", role, "--only", case, "--exec", commands[role])
    assert (result.returncode, result.stderr) == (0, "")
    assert list(long_directory.iterdir()) == []


@pytest.mark.parametrize("command", MAKE_SOCKETS)
def test_a_long_temporary_directory_is_one_line(command: str, long_directory: Path) -> None:
    """Nothing was started in it."""
    long = long_directory
    result = emu(*MAKE_SOCKETS[command])
    assert result.returncode == 1
    assert "at most 107" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(long.iterdir()) == []


def test_ctrl_c_before_a_vm_is_started_is_the_same_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While a subcommand is still being loaded."""

    def interrupted(*_: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(validate, "shape", interrupted)
    monkeypatch.setattr(sys, "argv", ["emu", "run", *SMALL])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    assert capsys.readouterr().err == "emu: ended by SIGINT\n"


def _loading(process: psutil.Process, _directory: Path) -> bool:
    """Whether the process has loaded the first extension module of this project."""
    return any("_native" in mapped.path for mapped in process.memory_maps())


#: Moments of a run, and the functions that detect them.
MOMENTS: dict[str, Callable[[psutil.Process, Path], bool]] = {
    "loading": _loading,
    "directory made": lambda _, directory: any(directory.iterdir()),
    "first program started": lambda process, _: bool(process.children()),
    "all programs started": lambda process, _: len(process.children()) >= 4,
    "under way": lambda process, _: process.cpu_times().user > 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_at_any_moment_is_one_line_and_a_second_vm_starts_at_once(
    moment: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run's programs have ended, and its sockets and files are removed."""
    # Of a short name: sockets are made in it.
    directory = tmp_path_factory.mktemp("c")
    monkeypatch.setenv("TMPDIR", str(directory))
    command = (*EMU, "migrate", *SMALL, "--repeat", "1000", "--quiet")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        watched = psutil.Process(process.pid)
        wait_until(lambda: process.poll() is not None or MOMENTS[moment](watched, directory))
        assert process.poll() is None, process.communicate()
        family = watched.children(recursive=True)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PROGRAM_TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert errors == "emu: ended by SIGINT\n"
    assert process.returncode == 130
    assert not running(family)
    assert list(directory.iterdir()) == []
    assert emu("migrate", *SMALL, "--strategy", "split", "--quiet").returncode == 0


def test_python_m_emu_is_the_command() -> None:
    """Without the installed scripts."""
    done = subprocess.run(
        [sys.executable, "-m", "emu", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("emu, version ")


@pytest.mark.slow
def test_a_stderr_that_is_not_read_does_not_end_a_run() -> None:
    """A closed one does not either: the report is on stdout."""
    for redirect in ("2>/dev/full", "2>&-"):
        command = " ".join([*EMU, "migrate", *SMALL, "--strategy", "split", redirect])
        result = subprocess.run(  # noqa: S602  redirections are the shell's
            command,
            shell=True,
            stdout=subprocess.PIPE,
            text=True,
            timeout=PROGRAM_TIMEOUT,
            check=False,
        )
        assert result.returncode == 0
        assert "lost 0, duplicated 0, corrupted 0" in result.stdout


@pytest.mark.slow
def test_sigquit_ends_a_run_without_leftovers(tmp_path: Path) -> None:
    """The temporary directory is removed."""
    process = subprocess.Popen(
        [*EMU, "migrate", *SMALL, "--repeat", "50"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("boot"):
            break
    process.send_signal(signal.SIGQUIT)
    rest = process.communicate(timeout=PROGRAM_TIMEOUT)[1]
    assert process.returncode == 128 + signal.SIGQUIT
    assert rest.strip().splitlines()[-1] == "emu: ended by SIGQUIT"
    assert list(tmp_path.iterdir()) == []
