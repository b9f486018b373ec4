"""``--trace`` on the real command: the document loads, and adds up to the figures of the table."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from emu.commands import trace_option
from tests.emu.test_cli import SMALL, emu
from vhost_user import tracing

if TYPE_CHECKING:
    from pathlib import Path

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


def check_format(document: dict[str, Any]) -> None:
    """The Trace Event Format: members, the order of time, nesting on each track, flows."""
    events = document["traceEvents"]
    tracks: dict[tuple[int, int], list[float]] = defaultdict(list)
    threads = {(e["pid"], e["tid"]) for e in events if e["name"] == "thread_name"}
    slices = {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "X"}
    moments = [event["ts"] for event in events if event["ph"] != "M"]
    assert moments == sorted(moments)
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


def busy(document: dict[str, Any]) -> dict[tuple[str, str, bool], float]:
    """Milliseconds of all spans, by phase, class and whether the VM was down.

    The source is side A, whose devices were started before, when the VM booted.
    """
    found: Counter[tuple[str, str, bool]] = Counter()
    metadata = [e for e in document["traceEvents"] if e["name"] == "process_name"]
    names = {event["pid"]: event["args"]["name"] for event in metadata}
    for event in document["traceEvents"]:
        if event["ph"] == "X" and event["cat"] == "phase":
            args = event["args"]
            if args["side"] == "dst" and names[event["pid"]].endswith("A"):
                continue
            key = event["name"], args["device_class"], args["in_blackout"]
            found[key] += event["dur"] / 1000
    return dict(found)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The trace and the results of one migration by ``prewired``."""
    folder = tmp_path_factory.mktemp("traced")
    trace, results = folder / "trace.json", folder / "results.json"
    files = ("--trace", str(trace), "--json", str(results))
    done = emu("migrate", *SMALL, "--strategy", "prewired", *files)
    assert done.returncode == 0, done.stderr
    return json.loads(trace.read_text()), json.loads(results.read_text())


def test_the_document_is_of_the_format(traced: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Each process has its name, and each device its track."""
    document, _ = traced
    check_format(document)
    metadata = [e for e in document["traceEvents"] if e["ph"] == "M"]
    processes = {e["args"]["name"] for e in metadata if e["name"] == "process_name"}
    assert {"VM-process-A", "VM-process-B", "back-end-blk-0-of-side-B"} <= processes
    tracks = {e["args"]["name"] for e in metadata if e["name"] == "thread_name"}
    assert {"migration", "net0", "net1", "blk0", "blk1"} <= tracks


def test_its_spans_add_up_to_the_table(traced: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """For each phase of each class, in the blackout and outside of it."""
    document, results = traced
    (run,) = results["runs"]
    rows = {(r["phase"], r["class"], r["in_blackout"]): r["busy_ms"] for r in run["phases"]}
    spans = busy(document)
    assert rows
    for key, milliseconds in rows.items():
        assert spans[key] == pytest.approx(milliseconds, abs=0.001), key


def test_the_moments_bound_the_downtime(traced: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """And QEMU's checkpoints are in their order on each side."""
    document, results = traced
    events = document["traceEvents"]
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
    traced: tuple[dict[str, Any], dict[str, Any]],
) -> None:
    """GET_VRING_BASE of each ring, for example."""
    document, results = traced
    events = document["traceEvents"]
    ends = Counter(event["ph"] for event in events if event["ph"] in "sf")
    assert ends["s"] == ends["f"]
    rings = sum(group["count"] * group["rings"] for group in results["vm"]["devices"])
    replies = [e for e in events if e["name"] == "GET_VRING_BASE reply"]
    assert len(replies) == 2 * rings, "at both ends"


@pytest.mark.slow
def test_counters(traced: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Of commits, dirty pages and requests in flight."""
    document, results = traced
    counters = [e for e in document["traceEvents"] if e["ph"] == "C"]
    assert {e["name"] for e in counters} == {"commits", "dirty pages", "requests in flight"}
    last = [e["args"]["requests"] for e in counters if e["name"] == "requests in flight"][-1]
    assert last == results["runs"][0]["requests_in_flight_at_stop"]


def test_a_trace_that_was_cut_says_when(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its file is written all the same."""
    path, records = tmp_path / "trace.json", tmp_path / "records"
    status: list[Any] = ["VM-process-A", "migration_set_state", {"status": "active"}]
    cut = ["VM-process-A", tracing.CUT, {}]
    rows = [
        [1_000_000_000, 1, 1, *status],
        [3_500_000_000, 1, 1, *status],
        [4_000_000_000, 1, 1, *cut],
    ]
    records.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with records.open() as file:
        trace_option._write(path, file)
    printed = capsys.readouterr().err
    assert printed.startswith(f"--trace {path}: the trace ends 2.5 s after its first event")
    assert printed.endswith(": it has the most that is kept, 128 MiB of records\n")
    assert json.loads(path.read_text())["traceEvents"]


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
