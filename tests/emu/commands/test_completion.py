"""`emu completion`, in real shells."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
from click.shell_completion import ShellComplete

from emu.commands import completion
from emu.commands.group import emu
from emu.report import gates
from tests import slow
from tests.emu.test_cli import emu as run_emu
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until
from vhost_user_conformance.model.case import BACK_END, FRONT_END

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTION = click.Option(["--x"])
#: Shells that read no files of the user's.
INTERACTIVE = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
}
BEFORE = {"zsh": "autoload -Uz compinit && compinit -u -D; "}


class Typing:
    """A shell on a pseudo-terminal, and what it has shown."""

    def __init__(self, shell: str, folder: Path) -> None:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        self._primary, secondary = os.openpty()
        # `emu` is the command of this environment, whatever else is installed.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.process = subprocess.Popen(
            INTERACTIVE[shell],
            stdin=secondary,
            stdout=secondary,
            stderr=secondary,
            cwd=folder,
            env={"PATH": path, "HOME": str(folder), "TERM": "xterm", "TMPDIR": str(folder)},
            start_new_session=True,
        )
        os.close(secondary)
        os.set_blocking(self._primary, False)
        self.shown = ""

    def type(self, text: str) -> None:
        """Press these keys."""
        os.write(self._primary, text.encode())

    def await_text(self, text: str) -> None:
        """Return when the shell has shown this."""

        def there() -> bool:
            with contextlib.suppress(BlockingIOError):
                self.shown += os.read(self._primary, 1 << 16).decode(errors="replace")
            return text in self.shown

        wait_until(there, f"{text!r} is shown")

    def close(self) -> None:
        """End the shell."""
        self.process.kill()
        self.process.wait(PROGRAM_TIMEOUT)
        os.close(self._primary)


@pytest.fixture(params=slow.all_but({"bash"}, INTERACTIVE))
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Typing]:
    typing = Typing(request.param, tmp_path)
    before = BEFORE.get(request.param, "")
    typing.type(f'{before}eval "$(emu completion {request.param})"; echo rea""dy\n')
    typing.await_text("ready")
    yield typing
    typing.close()


def test_a_command_is_completed_as_it_is_typed(shell: Typing) -> None:
    """Subcommands, an area of the cases, and an option; then the command runs."""
    shell.type("emu conf\tback\t--li\t--only fram\t | tail -n 1 | tr a-z A-Z\n")
    shell.await_text("AREAS: 1")


def test_fish_completes() -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    script = "emu completion fish | source; complete -C 'emu co'; complete -C 'emu sweep -s spl'"
    done = subprocess.run(
        ["fish", "--no-config", "-c", script],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    words = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert words == ["compare", "completion", "conform", "split"]


def test_a_shell_that_is_not_known() -> None:
    done = run_emu("completion", "tcsh")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'bash', 'zsh', 'fish'" in done.stderr


@pytest.mark.parametrize("trace", [("--trace", "t"), ("--trace-file", "t", "--trace-events", "*")])
def test_a_completion_has_no_effect(trace: tuple[str, ...], tmp_path: Path) -> None:
    """Although options before the word have values."""
    words = " ".join(("emu", "migrate", *trace, "--str"))
    done = subprocess.run(
        [sys.executable, "-m", "emu.cli"],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
        cwd=tmp_path,
        env={
            **os.environ,
            "_EMU_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split()) - 1),
        },
    )
    assert "plain,--strict-downtime" in done.stdout.splitlines()
    assert (done.stderr, list(tmp_path.iterdir())) == ("", [])


def test_names_of_back_ends_are_completed() -> None:
    context = click.Context(emu)
    assert completion.back_ends("blk")(context, OPTION, "qe") == ["qemu-storage-daemon"]
    assert completion.back_ends("net")(context, OPTION, "") == ["testpmd"]
    assert completion.back_ends("rng")(context, OPTION, "") == []


@pytest.mark.parametrize(
    "line", ["top", "tap --listen", "tap --connect", "attach --blk", "migrate --src-blk"]
)
def test_sockets_are_completed_as_files(line: str) -> None:
    shell = ShellComplete(emu, {}, "emu", "_EMU_COMPLETE")
    (item,) = shell.get_completions(line.split(), "a")
    assert (item.type, item.value) == ("file", "a")


def test_strategies_are_completed_within_a_list() -> None:
    def names(text: str) -> list[str]:
        return completion.strategies(click.Context(emu), OPTION, text)

    assert names("qemu") == ["qemu-2021", "qemu-now"]
    assert names("split,qemu-2021,q") == ["split,qemu-2021,qemu-now"]
    assert names("x") == []


def test_a_condition_is_completed_up_to_its_operator() -> None:
    def fields(text: str, strategies: str | None = None) -> list[str]:
        context = click.Context(emu)
        context.params["strategies"] = strategies
        return completion.conditions(context, OPTION, text)

    assert fields("prewired.downtime_m") == ["prewired.downtime_ms"]
    assert "prewired.downtime_ms" in fields("pre")
    assert "qemu-2021.integrity.lost" in fields("")
    assert fields("", "split,threads")[0] == "split.downtime_ms"
    assert fields("", "all") == fields("")
    assert all(text.startswith(("split.", "threads.")) for text in fields("", "split,threads"))
    assert fields("prewired.", "split") == []
    assert "split.src.get_vring_base.blk.wall_ms" in fields("split.s")
    assert not any(".src." in text for text in fields("split."))
    assert fields("split.downtime_ms > 3") == []
    for text in fields("split.d") + fields("split.s"):
        assert gates.parse(f"{text} > 1", ["split"]).field == text.removeprefix("split.")


def test_the_strategies_of_a_condition_are_those_of_the_line(shell: Typing) -> None:
    # Ctrl-A: the finished line becomes the arguments of echo.
    shell.type("emu migrate --strategy split --fail-if spl\tdowntime_m\t\x01echo \n")
    shell.await_text("--fail-if split.downtime_ms")


@pytest.mark.parametrize("role", [BACK_END, FRONT_END])
def test_areas_come_before_ids(role: str) -> None:
    complete = completion.cases(role)
    letter = role[0].upper()
    assert "framing" in complete(click.Context(emu), OPTION, "")
    ids = complete(click.Context(emu), OPTION, f"VU-{letter}-010")
    assert f"VU-{letter}-0101" in ids
    assert all(name.startswith(f"VU-{letter}-010") for name in ids)
