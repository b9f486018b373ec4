"""``--trace`` on the real command: the document loads, and adds up to the figures of the table."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import click
import psutil
import pytest
from click.testing import CliRunner

from emu.commands import trace_option
from tests.emu.test_cli import EMU, SMALL, emu
from tests.timeouts import PROGRAM_TIMEOUT
from tests.waiting import wait_until

#: Half a nanosecond in the unit of times, microseconds: floating point numbers are that exact.
HALF_NS = 0.0005
#: The members that the format requires of each kind of event.
REQUIRED = {
    "X": {"name", "cat", "ts", "dur", "pid", "tid", "args"},
    "M": {"name", "ts", "pid", "tid", "args"},
    "s": {"name", "cat", "ts", "id", "pid", "tid"},
    "f": {"name", "cat", "ts", "id", "pid", "tid", "bp"},
    "i": {"name", "ts", "pid", "tid", "s"},
    "C": {"name", "ts", "pid", "tid", "args"},
}


Document = list[dict[str, Any]]


def check_format(document: Document) -> None:
    """The Trace Event Format: members, nesting on each track, flows. The events have any order."""
    events = sorted(document, key=lambda event: (event["ts"], -event.get("dur", 0)))
    tracks: dict[tuple[int, int], list[float]] = defaultdict(list)
    threads = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    slices = {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "X"}
    flows: dict[int, list[str]] = defaultdict(list)
    for event in events:
        assert REQUIRED[event["ph"]] <= event.keys(), event
        place = event["pid"], event["tid"]
        if event["ph"] == "X":
            assert place in threads
            begin, end = event["ts"], event["ts"] + event["dur"]
            ends = tracks[place]
            while ends and ends[-1] <= begin + HALF_NS:
                ends.pop()
            assert not ends or end <= ends[-1] + HALF_NS, event
            ends.append(end)
        if event["ph"] in "sf":
            assert (*place, event["ts"]) in slices, "a flow is bound to the slice that begins there"
            flows[event["id"]].append(event["ph"])
    assert all(letters in (["s", "f"], ["s"]) for letters in flows.values())


def busy(document: Document) -> dict[tuple[str, str, bool], float]:
    """Milliseconds of all spans, by phase, class and whether the VM was down.

    The source is side A, whose devices were started before, when the VM booted.
    """
    found: Counter[tuple[str, str, bool]] = Counter()
    metadata = [e for e in document if e["name"] == "process_name"]
    names = {event["pid"]: event["args"]["name"] for event in metadata}
    for event in document:
        if event["ph"] == "X" and event["cat"] == "phase":
            args = event["args"]
            if args["side"] == "dst" and names[event["pid"]].endswith("A"):
                continue
            key = event["name"], args["device_class"], args["in_blackout"]
            found[key] += event["dur"] / 1000
    return dict(found)


def migrated(folder: Path, *shape: str) -> tuple[Document, dict[str, Any]]:
    """The trace and the results of one migration by ``prewired``."""
    trace, results = folder / "trace.json", folder / "results.json"
    files = ("--trace", str(trace), "--json", str(results))
    done = emu("migrate", *shape, "--strategy", "prewired", *files)
    assert done.returncode == 0, done.stderr
    return json.loads(trace.read_text()), json.loads(results.read_text())


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, dict[str, Any]]:
    """See `migrated`; of a small VM."""
    return migrated(tmp_path_factory.mktemp("traced"), *SMALL)


def check_sums(document: Document, results: dict[str, Any]) -> None:
    """The spans of each phase add up to its row."""
    (run,) = results["runs"]
    rows = {(r["phase"], r["class"], r["in_blackout"]): r["busy_ms"] for r in run["phases"]}
    spans = busy(document)
    assert rows
    for key, milliseconds in rows.items():
        assert spans[key] == pytest.approx(milliseconds, abs=0.001), key


def test_the_document_is_of_the_format(traced: tuple[Document, dict[str, Any]]) -> None:
    """Each process has its name, and each device its track."""
    document, _ = traced
    check_format(document)
    metadata = [e for e in document if e["ph"] == "M"]
    processes = {e["args"]["name"] for e in metadata if e["name"] == "process_name"}
    assert {"VM-process-A", "VM-process-B", "back-end-blk-0-of-side-B"} <= processes
    tracks = {e["args"]["name"] for e in metadata if e["name"] == "thread_name"}
    assert {"migration", "net0", "net1", "blk0", "blk1"} <= tracks


def test_its_spans_add_up_to_the_table(traced: tuple[Document, dict[str, Any]]) -> None:
    """For each phase of each class, in the blackout and outside of it."""
    check_sums(*traced)


@pytest.mark.slow
def test_the_trace_of_the_rfc_s_vm_adds_up(tmp_path: Path) -> None:
    """40 devices and 608 rings, each with its messages at both ends."""
    document, results = migrated(tmp_path, "--accel", "soft")
    check_format(document)
    check_sums(document, results)
    shape = [(each["count"], each["rings"]) for each in results["vm"]["devices"]]
    assert shape == [(16, 32), (24, 4)]
    replies = [event for event in document if event["name"] == "GET_VRING_BASE reply"]
    assert len(replies) == 2 * 608


def test_the_moments_bound_the_downtime(traced: tuple[Document, dict[str, Any]]) -> None:
    """And QEMU's checkpoints are in their order on each side."""
    document, results = traced
    events = document
    names = {e["pid"]: e["args"]["name"] for e in events if e["name"] == "process_name"}
    at = {e["name"]: e["ts"] for e in events if e["ph"] == "i"}
    (running,) = (
        e["ts"] for e in events if e["name"] == "running_ns" and names[e["pid"]] == "VM-process-B"
    )
    downtime = (running - at["pause_start_ns"]) / 1000
    assert downtime == pytest.approx(results["runs"][0]["downtime_ms"], abs=0.001)
    # The destination may have loaded the state before the source knows that it has sent it.
    for order in (
        ("src-downtime-start", "src-vm-stopped", "src-iterable-saved", "src-non-iterable-saved"),
        ("src-iterable-saved", "dst-precopy-loadvm-completed", "dst-precopy-bh-vm-started"),
    ):
        moments = [at[name] for name in order]
        assert moments == sorted(moments)


def test_each_message_leads_to_the_back_end_and_its_reply_back(
    traced: tuple[Document, dict[str, Any]],
) -> None:
    """GET_VRING_BASE of each ring, for example."""
    document, results = traced
    events = document
    ends = Counter(event["ph"] for event in events if event["ph"] in "sf")
    assert ends["s"] == ends["f"]
    rings = sum(group["count"] * group["rings"] for group in results["vm"]["devices"])
    replies = [e for e in events if e["name"] == "GET_VRING_BASE reply"]
    assert len(replies) == 2 * rings, "at both ends"


@pytest.mark.slow
def test_counters(traced: tuple[Document, dict[str, Any]]) -> None:
    """Of commits, dirty pages and requests in flight."""
    document, results = traced
    counters = [e for e in document if e["ph"] == "C"]
    assert {e["name"] for e in counters} == {"commits", "dirty pages", "requests in flight"}
    last = [e["args"]["requests"] for e in counters if e["name"] == "requests in flight"][-1]
    assert last == results["runs"][0]["requests_in_flight_at_stop"]


@pytest.mark.parametrize("limit", [None, 4096])
def test_a_trace_that_does_not_fit_is_one_line(tmp_path: Path, limit: int | None) -> None:
    """And the command is done all the same; a file has whole events."""
    path = Path("/dev/full") if limit is None else tmp_path / "t.json"
    limits = () if limit is None else ("prlimit", f"--fsize={limit}")
    peer = f"{shlex.quote(sys.executable)} -m backends.net --socket-path {{socket}}"
    command = ("conform", "back-end", "--only", "framing", "--exec", peer, "--trace", str(path))
    done = subprocess.run(
        [*limits, *EMU, *command],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert done.returncode == 1
    reason = "No space left on device" if limit is None else "File too large"
    assert done.stderr == f"emu: --trace {path}: {reason}: the log is incomplete\n"
    assert "rules: 0 broken" in done.stdout
    if limit is not None:
        check_format(json.loads(path.read_text().rstrip(",\n") + "]"))


def test_a_command_that_is_killed_has_a_trace(tmp_path: Path) -> None:
    """Of what its processes recorded until then."""
    path = tmp_path / "t.json"
    with subprocess.Popen(
        [*EMU, "run", *SMALL, "--for", "3600s", "--trace", str(path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as program:
        wait_until(lambda: path.exists() and "vcpus_state running" in path.read_text())
        program.kill()
    wait_until(lambda: path.read_text().endswith("]\n"))
    document = json.loads(path.read_text())
    check_format(document)
    assert "SET_MEM_TABLE" in {event["name"] for event in document}


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGSTOP, "the process that writes it does not end within 0.5 s"),
        (signal.SIGKILL, "the process that writes it has ended"),
    ],
)
def test_a_process_that_does_not_write_the_file_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, reason: str
) -> None:
    """The command waits for it for a time; the process is not left behind."""
    monkeypatch.setattr(trace_option, "_END_TIMEOUT", 0.5)
    writers: list[psutil.Process] = []

    @click.command()
    @trace_option.trace_option
    def command() -> None:
        writers.extend(psutil.Process().children())
        writers[-1].send_signal(number)

    path = tmp_path / "t.json"
    done = CliRunner().invoke(command, ["--trace", str(path)])
    assert done.exit_code == 1
    assert done.output == f"Error: --trace {path}: {reason}\n"
    assert not writers[-1].is_running()


def test_a_link_is_refused(tmp_path: Path) -> None:
    """At the start."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "file")
    done = emu("run", *SMALL, "--trace", str(link))
    assert done.returncode == 2
    assert done.stderr == f"emu: --trace {link} is a symbolic link\n"


def test_what_is_refused(tmp_path: Path) -> None:
    """Before anything is started."""
    for arguments, expected in (
        (("--trace", "/none/t.json"), "--trace /none/t.json: there is no directory /none"),
        (
            ("--trace", str(tmp_path / "t"), "--trace-events", "*"),
            "--trace-events and EMU_TRACE cannot be combined with --trace",
        ),
    ):
        done = emu("migrate", *SMALL, *arguments)
        assert done.returncode in (1, 2)
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "t").exists()


def test_a_command_that_fails_has_a_trace(tmp_path: Path) -> None:
    """Of what happened until then."""
    path = tmp_path / "t.json"
    done = emu(
        "run",
        *SMALL,
        "--for",
        "1s",
        "--blk-backend",
        "/none {socket} {image}",
        "--trace",
        str(path),
    )
    assert done.returncode == 1
    check_format(json.loads(path.read_text()))
