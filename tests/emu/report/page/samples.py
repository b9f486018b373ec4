"""Small documents of each command, in the shapes that the commands write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from devices.procedure import Phase
from emu.report import sweep
from emu.report.results import (
    COMPLETED,
    ROLLED_BACK,
    Integrity,
    MigrationReport,
    MigrationResult,
    phase_rows,
)
from emu.report.timeline import timeline_rows
from emu.strategies.timeline import Span
from tests.emu.fake_runs import machine_plan

if TYPE_CHECKING:
    from emu.report.page.content import Page, Table

MS = 1_000_000
#: Text that would be a script, an element or an attribute if it were not escaped.
HOSTILE = (
    '</script><script>window.hacked=1</script><img src=x onerror="hacked=1">\'&{{ 7*7 }}'
    "\x1b\x00\ufffe<!--"
)


def spans(scale: int = 1) -> tuple[list[Span], list[Span]]:
    """Both sides of a migration; times are multiples of ``scale`` milliseconds."""

    def span(phase: Phase, kind: str, device: str, start: int, end: int, *, down: bool) -> Span:
        ends = (start * scale * MS, end * scale * MS)
        return Span(kind, device, None, phase, *ends, 2, down)

    source = [
        span(Phase.PAUSE_VCPUS, "vm", "", 0, 1, down=True),
        *(
            span(Phase.GET_VRING_BASE, "net", f"net{at}", 1 + at, 2 + at, down=True)
            for at in range(11)
        ),
        span(Phase.GET_VRING_BASE, "blk", "blk0", 12, 14, down=True),
        span(Phase.DISABLE_HOST_NOTIFY, "net", "", 14, 15, down=True),
        span(Phase.DISABLE_HOST_NOTIFY, "blk", "", 14, 15, down=True),
        span(Phase.FINAL_RAM, "vm", "", 15, 16, down=True),
    ]
    destination = [
        span(Phase.SET_MEM_TABLE, "net", "net0", -8, -6, down=False),
        span(Phase.LOAD_STATE, "vm", "", 16, 17, down=True),
        span(Phase.START_VRINGS, "net", "net0", 17, 19, down=True),
        span(Phase.START_VRINGS, "blk", "blk0", 17, 20, down=True),
        span(Phase.RESUME_VCPUS, "vm", "", 20, 21, down=True),
    ]
    return source, destination


def run(strategy: str, repeat: int = 1, scale: int = 1) -> MigrationResult:
    """A completed migration; its downtime is 21 times ``scale`` milliseconds."""
    source, destination = spans(scale)
    return MigrationResult(
        strategy,
        repeat,
        COMPLETED,
        downtime_ms=21.0 * scale,
        guest_gap_ms=21.5 * scale,
        network_gap_ms=30.0 * scale,
        stop_ms=14.0 * scale,
        start_ms=3.0 * scale,
        commits=4,
        requests_in_flight_at_stop=7,
        phases=tuple(phase_rows(source + destination)),
        integrity=Integrity(requests=100, packets_lost=2),
        timeline=tuple(timeline_rows(source, destination, 0)),
    )


def migrations(*runs: MigrationResult) -> dict[str, Any]:
    """The document of `emu migrate`; by default of two strategies."""
    report = MigrationReport(
        machine_plan(), "soft", list(runs or (run("qemu-2021", scale=10), run("prewired")))
    )
    return {**report.to_json(), "command": "emu migrate --net 2x4"}


def rolled_back(error: str) -> MigrationResult:
    """A migration that failed."""
    return MigrationResult("split", 1, ROLLED_BACK, error=error)


def sweep_document() -> dict[str, Any]:
    """The document of `emu sweep`: two VMs, two strategies."""
    points = [
        sweep.Point(devices, devices * 8, strategy, 10.0 * factor, 4.0 * factor, 3.0 * factor)
        for devices, factor in ((4, 1), (40, 9))
        for strategy in ("qemu-2021", "prewired")
    ]
    own = migrations()
    head = {
        name: value for name, value in own.items() if name not in ("vm", "via", "network", "runs")
    }
    return {**head, "points": [point._asdict() for point in points], "migrations": [own, own]}


def case(number: int, verdict: str, **changes: Any) -> dict[str, Any]:
    """A row of the suite's JSON."""
    return {
        "id": f"VU-B-{number:04}",
        "area": "framing",
        "rule": f"Rule {number}",
        "spec": "Header",
        "severity": "must",
        "needs": [],
        "device": None,
        "verdict": verdict,
        "expected": "a reply",
        "seen": "nothing\n-> GET_FEATURES",
        "ms": 1.5,
        **changes,
    }


def conformance(*cases: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The document of `emu conform`."""
    default = (case(101, "PASS"), case(102, "FAIL"), case(201, "UNSUPPORTED", area="memory"))
    return {
        "schema": 1,
        "role": "back-end",
        "peer": {"program": "my-backend {socket}", "device": None},
        "offered": {"features": "0x1", "protocol_features": "0x2", "rings": 2},
        "cases": list(cases or default),
        "summary": {},
        "not_sane": [],
        "not_run": 0,
        **changes,
    }


def tap(**changes: Any) -> dict[str, Any]:
    """The document of a tap that has seen a stop."""
    spans_of = [
        {
            "device": f"disk{at}",
            "time_ns": 1000 + at * MS,
            "end_ns": 1000 + (at + 1) * MS,
            "replies_ns": MS // 2,
            "messages": 4,
            "rings": {"0": MS // 4, "1": MS // 4},
        }
        for at in range(3)
    ]
    row = {"row": "get vring base", "wall_ns": 3 * MS, "replies_ns": 3 * MS // 2, "messages": 12}
    stop = {
        "event": "stop",
        "time_ns": 1000,
        "end_ns": 1000 + 3 * MS,
        "since_ns": None,
        "migration": False,
        "rings": 6,
        "what_if": [
            {
                "strategy": "qemu-2021",
                "apart_ns": 3 * MS,
                "processes_ns": 3 * MS,
                "together_ns": 3 * MS,
            },
            {
                "strategy": "split",
                "apart_ns": MS,
                "processes_ns": 3 * MS // 2,
                "together_ns": 2 * MS,
            },
        ],
        "rows": [{**row, "at_once": 1, "devices": spans_of}],
    }
    return {
        "schema": 1,
        "pairs": [{"device": "disk0", "listen": "/tmp/a", "connect": "/tmp/b"}],
        "connections": 3,
        "requests": [
            {
                "name": "VHOST_USER_GET_VRING_BASE",
                "count": 12,
                "replies": 12,
                "mean_ns": MS,
                "most_ns": MS,
            }
        ],
        "violations": [],
        "transitions": [stop],
        "earlier_transitions": 0,
        **changes,
    }


def table_of(page: Page, title: str) -> Table:
    """The table of the section with this title."""
    (section,) = [section for section in page.sections if section.title == title]
    from emu.report.page.content import Table

    (table,) = [block for block in section.blocks if isinstance(block, Table)]
    return table


def rows_of(table: Table) -> list[list[str]]:
    """The texts of a table's cells."""
    return [[cell.text for cell in row] for row in table.rows]
