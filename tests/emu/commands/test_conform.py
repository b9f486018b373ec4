"""`emu conform`: its errors for both roles, and its lists."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from emu.commands.conform import conform
from tests import slow
from tests.emu.commands.test_trace_option import check_format
from tests.timeouts import PROGRAM_TIMEOUT
from tests.vhost_user_conformance.pytest_plugin.sessions import WRONG_BASE
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.target import cases_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BOTH = [
    ((), 2, "--socket PATH or --exec COMMAND"),
    (("--exec", "true"), 2, "write {socket} where"),
    (("--socket", "x", "--patience", "nan"), 2, "nan is not a number"),
    (("--socket", "x", "--json", "/none/x"), 1, "--json /none/x: there is no directory"),
    (("--exec", "/no/such {socket}"), 1, "No such file"),
    (("--exec", "false {socket}"), 1, "the program ended with status 1"),
    (("--socket", "x", "--only", "nothing"), 2, "the areas are sanity, framing"),
    (("--exec", "'"), 2, "No closing quotation"),
]


@pytest.mark.parametrize(
    ("role", "arguments", "status", "text"),
    slow.after(
        4,
        [
            *((role, *row) for role in ("back-end", "front-end") for row in BOTH),
            ("back-end", ("--socket", "/no/such"), 1, "no program listens"),
            (
                "front-end",
                ("--socket", "/no/such/s"),
                1,
                "/no/such/s: cannot listen there: there is no directory /no/such",
            ),
        ],
    ),
)
def test_an_error_is_one_line(role: str, arguments: Sequence[str], status: int, text: str) -> None:
    """The line states what is wrong."""
    argv = [sys.executable, "-m", "emu.cli", "conform", role, *arguments]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert text in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("role", ["back-end", "front-end"])
def test_a_list_has_the_chosen_cases_only(role: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As text, and as a document; no peer is needed."""
    letter = "B" if role == "back-end" else "F"
    arguments = [role, "--list", "--only", "framing", "--only", f"VU-{letter}-0401"]
    conform.main(arguments, standalone_mode=False)
    lines = capsys.readouterr().out
    conform.main([*arguments, "--json", "-"], standalone_mode=False)
    document = json.loads(capsys.readouterr().out)
    assert document["role"] == role
    areas = {case["area"] for case in document["cases"]}
    assert areas == {"framing", "rings"}
    for case in document["cases"]:
        assert case["id"] in lines


def test_a_case_that_fails_is_the_status(tmp_path: Path) -> None:
    """The files are written before; an ERROR counts with --strict only."""
    out = tmp_path / "out.json"
    program = f"{shlex.quote(sys.executable)} -c {shlex.quote(WRONG_BASE)} --socket-path {{socket}}"
    arguments = ["back-end", "--device", "net", "--only", "bases", "--json", str(out)]
    argv = [sys.executable, "-m", "emu.cli", "conform", *arguments, "--exec", program, "--quiet"]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert done.returncode == 1
    assert json.loads(out.read_text())["summary"]["FAIL"] >= 1


def test_the_trace_has_a_span_for_each_case(tmp_path: Path) -> None:
    """With its verdict, and with the messages in it."""
    out, trace = tmp_path / "out.json", tmp_path / "trace.json"
    program = f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}"
    arguments = ["back-end", "--only", "framing", "--json", str(out), "--trace", str(trace)]
    argv = [sys.executable, "-m", "emu.cli", "conform", *arguments, "--exec", program, "--quiet"]
    subprocess.run(argv, capture_output=True, timeout=PROGRAM_TIMEOUT, check=True)
    document = json.loads(trace.read_text())
    check_format(document)
    spans = [event for event in document if event["ph"] == "X"]
    cases = {span["name"]: span for span in spans if span["cat"] == "case"}
    assert {name: span["args"]["verdict"] for name, span in cases.items()} == {
        case["id"]: case["verdict"] for case in json.loads(out.read_text())["cases"]
    }
    first = min(cases.values(), key=lambda span: float(span["ts"]))
    last = max(cases.values(), key=lambda span: float(span["ts"]))
    messages = [span["ts"] for span in spans if span["cat"] == "message"]
    assert [at for at in messages if first["ts"] <= at <= last["ts"] + last["dur"]]


#: A NIC's back-end that sends the suite a signal when it has stopped many rings.
SIGNALS = """
import os
from backends.net import main
from backends.ring import Ring

stop, stops = Ring.stop, []

def counted(ring):
    stops.append(ring)
    if len(stops) == 40 and {signum}:
        os.kill(os.getppid(), {signum})
    return stop(ring)

Ring.stop = counted
main()
"""
ENDS = {
    "SIGTERM": ((), signal.SIGTERM, "SIGTERM"),
    "SIGINT": ((), signal.SIGINT, "SIGINT"),
    "total time": (("--total-time", "4"), 0, "--total-time: the run ended after 4 s"),
}


@pytest.mark.parametrize("how", slow.all_but(("SIGTERM",), ENDS))
def test_a_run_that_is_ended_reports_what_was_judged(how: str, tmp_path: Path) -> None:
    """The report and both files have the cases so far, and the number of the others."""
    arguments, signum, text = ENDS[how]
    out, junit = tmp_path / "out.json", tmp_path / "out.xml"
    script = SIGNALS.format(signum=int(signum))
    # No program in a sandbox can send a signal to another one.
    serve = f"{shlex.quote(sys.executable)} -c {shlex.quote(script)} --no-sandbox"
    program = f"{serve} --socket-path {{socket}}"
    argv = [sys.executable, "-m", "emu.cli", "conform", "back-end", "--device", "net"]
    argv += ["--json", str(out), "--junitxml", str(junit), "--exec", program, *arguments]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT, check=False
    )
    assert done.returncode != 0
    assert text in done.stderr
    whole = json.loads(out.read_text())
    judged, not_run = len(whole["cases"]), whole["not_run"]
    assert judged >= 1
    assert not_run >= 1
    assert judged + not_run == len(cases_of(BACK_END))
    assert f"{not_run} cases were not run" in done.stdout
    assert f'tests="{judged}"' in junit.read_text()
