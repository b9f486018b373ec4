"""Records as a Chrome trace: rows of a track, flows, moments and counters."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

from emu.report import chrome_trace
from emu.report.chrome_trace import MESSAGE_NS, ChromeTrace
from vhost_user.tracing import Record

if TYPE_CHECKING:
    import pytest

VM, BACK_END = "VM-process-A", "back-end-blk-0-of-side-A"


def record(at: int, event: str, *, process: str = VM, **fields: Any) -> Record:
    """A record of one of two processes."""
    return Record(at, 1 if process == VM else 2, 7, process, event, fields)


def phase(start: int, end: int, *, device: str | None = "blk0", **more: Any) -> Record:
    """The record of a phase's end."""
    about: dict[str, Any] = {"phase": "src.get_vring_base", "device_class": "blk", **more}
    about.setdefault("in_blackout", True)
    if device is not None:
        about["device"] = device
    return record(
        end, "migration_phase_end", **about, units=1, start_ns=start, us=(end - start) / 1000
    )


def message(at: int, event: str, *, process: str = VM, name: str = "GET_VRING_BASE") -> Record:
    """The record of a message."""
    device = "blk0" if process == VM else "A-blk0"
    return record(at, event, process=process, device=device, message=name)


def document(*records: Record) -> list[dict[str, Any]]:
    """The events of records, with names."""
    trace = ChromeTrace()
    return [event for each in records for event in trace.events_of(each)]


def events(*records: Record) -> list[dict[str, Any]]:
    """The events of records, without names, in the order of time."""
    found = [event for event in document(*records) if event["ph"] != "M"]
    return sorted(found, key=lambda event: (event["ts"], -event.get("dur", 0)))


def names(*records: Record) -> dict[int, str]:
    """The tracks of the VM's process, by number, in the order of a viewer."""
    found = [event for event in document(*records) if event["pid"] == 1]
    order = {e["tid"]: e["args"] for e in found if e["name"] == "thread_sort_index"}
    named = [(e["tid"], e["args"]["name"]) for e in found if e["name"] == "thread_name"]
    return dict(sorted(named, key=lambda each: order[each[0]]["sort_index"]))


def test_spans_within_each_other_share_a_row() -> None:
    """And those that follow each other."""
    found = events(phase(2000, 4000, ring=0), phase(4000, 9000, ring=1), phase(1000, 9000))
    assert len({event["tid"] for event in found}) == 1
    assert [event["dur"] for event in found] == [8.0, 2.0, 5.0]


def test_spans_that_overlap_have_rows_of_their_own() -> None:
    """With the track's name: viewers draw only what is nested."""
    records = (
        *(phase(1000, 5000, ring=0), phase(2000, 8000, ring=1)),
        *(phase(1000, 9000, device="blk1"), phase(6000, 7000)),
    )
    found = [(event["ts"], event["tid"]) for event in events(*records)]
    assert found == [(1.0, 4), (1.0, 2), (2.0, 3), (6.0, 2)]
    assert list(names(*records).values()) == ["migration", "blk0", "blk0", "blk1"]


def test_a_span_may_be_recorded_after_one_that_follows_it() -> None:
    """By another thread."""
    found = events(phase(5000, 6000), phase(1000, 4000), phase(500, 4500), phase(3000, 5500))
    assert [event["tid"] for event in found] == [2, 2, 3, 2]


def test_the_rows_of_a_track_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """What overlaps more is a moment at its end."""
    monkeypatch.setattr(chrome_trace, "MAX_ROWS", 2)
    found = events(*(phase(1000 + n, 2000 + n) for n in range(3)))
    assert [(event["ph"], event["ts"]) for event in found] == [
        ("X", 1.0),
        ("X", 1.001),
        ("i", 2.002),
    ]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace of hours takes as much memory as one of minutes."""
    monkeypatch.setattr(chrome_trace, "MAX_SPANS", 16)
    monkeypatch.setattr(chrome_trace, "MAX_SENT", 16)
    monkeypatch.setattr(chrome_trace, "MAX_PROCESSES", 4)
    trace = ChromeTrace()

    def held(first: int, process: str) -> int:
        """Objects after 1000 records more, a lost message among each ten."""
        made = 0
        for n in range(first, first + 1000):
            at = n * 1000
            record = message(at, "vhost_user_write") if n % 10 else phase(at, at + 500)
            made += len(list(trace.events_of(record._replace(process=f"{process}-A"))))
        assert made >= 1000
        return len(pickle.dumps((trace._processes, dict(trace._sent))))

    sizes = [held(n * 1000, f"VM-{n % 10}") for n in range(10)]
    assert max(sizes[4:]) < 1.1 * sizes[4]


def test_a_span_from_before_what_is_remembered_has_a_row_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It might overlap a part of what was forgotten."""
    monkeypatch.setattr(chrome_trace, "MAX_SPANS", 4)
    found = events(*(phase(1000 * n, 1000 * n + 500) for n in range(1, 7)), phase(1200, 6900))
    assert {event["tid"] for event in found if event["ts"] != 1.2} == {2}
    assert [event["tid"] for event in found if event["ts"] == 1.2] == [3]


def test_a_span_without_a_device_is_on_the_track_of_its_class_or_of_the_migration() -> None:
    """Such as a commit for all devices."""
    tracks = names(
        phase(1, 2, device=None), phase(3, 4, device=None, device_class="vm"), phase(5, 6)
    )
    assert set(tracks.values()) == {"migration", "blk", "blk0"}


def test_a_message_ends_before_what_follows() -> None:
    """It takes no time: its slice is there to be seen."""
    found = events(
        message(1000, "vhost_user_write"), message(1300, "vhost_user_write"), phase(1900, 2500)
    )
    durations = [event["dur"] for event in found if event["ph"] == "X"]
    assert durations == [MESSAGE_NS / 1000, MESSAGE_NS / 1000, 0.6]


def test_a_request_and_its_reply_are_two_flows() -> None:
    """From one end to the other and back, in the order of the connection."""
    found = events(
        message(1, "vhost_user_write", name="SET_OWNER"),
        message(2, "vhost_user_write"),
        message(3, "vhost_user_backend_read", process=BACK_END, name="SET_OWNER"),
        message(4, "vhost_user_backend_read", process=BACK_END),
        message(5, "vhost_user_backend_write", process=BACK_END),
        message(6, "vhost_user_read"),
    )
    flows = [(e["ph"], e["id"], e["pid"]) for e in found if e["ph"] in "sf"]
    assert flows == [
        *(("s", 1, 1), ("s", 2, 1), ("f", 1, 2), ("f", 2, 2)),
        *(("s", 3, 2), ("f", 3, 1)),
    ]
    assert [e["name"] for e in found if e["ph"] == "X"][-2:] == ["GET_VRING_BASE reply"] * 2


def test_a_message_that_was_not_sent_here_has_no_flow() -> None:
    """As of a back-end that another front-end uses, too."""
    found = events(message(1, "vhost_user_backend_read", process=BACK_END))
    assert [event["ph"] for event in found] == ["X"]


def test_counters_and_moments() -> None:
    """Commits are counted; bytes are pages; a mark and the end of a phase are checkpoints."""
    found = events(
        record(1, "memory_commit"),
        record(2, "memory_commit"),
        record(3, "migration_round", remaining=8192, sent=0, round=1),
        record(4, "guest_requests", in_flight=5),
        record(5, "migration_mark", mark="pause_start_ns", at_ns=5),
        phase(6, 7, device=None, device_class="vm", phase="src.pause_vcpus"),
        record(8, "vcpus_state", state="running"),
        record(9, "qmp_command", name="stop"),
    )
    counters = [(e["name"], *e["args"].values()) for e in found if e["ph"] == "C"]
    assert counters == [
        *(("commits", 1), ("commits", 2)),
        *(("dirty pages", 2), ("requests in flight", 5)),
    ]
    assert [e["name"] for e in found if e["ph"] == "i"] == [
        *("pause_start_ns", "src-downtime-start", "src-vm-stopped", "vcpus_state running"),
    ]


def test_a_process_that_goes_on_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself is the first of all, and outlives hundreds of VMs."""
    monkeypatch.setattr(chrome_trace, "MAX_PROCESSES", 3)
    mark: dict[str, Any] = {"mark": "x", "at_ns": 1}
    records = [
        Record(1, pid, 1, f"process {pid}", "migration_mark", mark)
        for other in range(2, 12)
        for pid in (1, other)
    ]
    found = [event["pid"] for event in document(*records) if event["name"] == "process_name"]
    assert found == list(range(1, 12))


def test_vm_processes_come_before_their_back_ends() -> None:
    """Side by side."""
    order = ["VM-process-B", "back-end-x-of-side-B", "back-end-x-of-side-A", VM, "migrate"]
    records = [
        Record(n, n, n, name, "migration_mark", {"mark": "x", "at_ns": n})
        for n, name in enumerate(order)
    ]
    found = document(*records)
    process = {e["pid"]: e["args"]["name"] for e in found if e["name"] == "process_name"}
    index = {e["pid"]: e["args"] for e in found if e["name"] == "process_sort_index"}
    assert [process[pid] for pid in sorted(index, key=lambda pid: index[pid]["sort_index"])] == [
        *("migrate", VM, "back-end-x-of-side-A", "VM-process-B", "back-end-x-of-side-B"),
    ]


def test_a_case_of_the_conformance_suite_has_its_messages() -> None:
    """On one track; a message ends before the case does."""
    found = events(
        record(2000, "conformance_message", sender="suite", message="GET_FEATURES"),
        record(4500, "conformance_message", sender="peer", message="GET_FEATURES reply 0x1"),
        record(5000, "conformance_case", case="VU-B-0101", verdict="pass", start_ns=1000, us=4.0),
    )
    spans = [(event["name"], event["tid"], event["ts"], event["dur"]) for event in found]
    assert spans == [
        ("VU-B-0101", 2, 1.0, 4.0),
        ("GET_FEATURES", 2, 2.0, 0.1),
        ("GET_FEATURES reply", 2, 4.5, 0.1),
    ]
    assert found[0]["args"]["verdict"] == "pass"


def test_a_message_that_was_lost_does_not_shift_the_flows() -> None:
    """The back-end had gone before it read it."""
    found = events(
        message(1, "vhost_user_write", name="SET_OWNER"),
        message(2, "vhost_user_write"),
        message(3, "vhost_user_backend_read", process=BACK_END),
        message(4, "vhost_user_backend_read", process=BACK_END, name="SET_OWNER"),
    )
    flows = [(e["ph"], e["id"]) for e in found if e["ph"] in "sf"]
    assert flows == [("s", 1), ("s", 2), ("f", 2)]
