"""The tables of ``docs/explanation/performance.md`` that a session of benchmarks has measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.aims import DIRTY_LOG, DISK, NIC, STREAMS
from bench.figures import AGAIN, DAEMON, IO_URING, OURS, markdown
from emu.report.cells import size

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.session import Benchmark, Session

DOCUMENT = "performance.md"
END = "<!-- end -->"
_WRITTEN = "<!-- written by `python -m bench.document`"
Row = dict[str, str]


def begin(name: str) -> str:
    """The line before a table."""
    return f"{_WRITTEN}: {name} -->"


def _disk(each: Benchmark) -> Row:
    kind, rings, depth = (each.params[name] for name in ("kind", "rings", "depth"))
    took = each.info["us_per_request"]
    return {
        "requests": f"{kind}s of {size(each.params['block'])}",
        "rings": str(rings),
        "depth": str(depth),
        "ours, µs": f"{took[OURS]:.2f}",
        "storage daemon, µs": f"{took[DAEMON]:.2f}",
        "ratio": f"{took[DAEMON] / took[OURS]:.2f}",
        "io_uring, µs": f"{took[IO_URING]:.2f}",
        "ratio to io_uring": f"{took[IO_URING] / took[OURS]:.2f}",
    }


def _nic(each: Benchmark) -> Row:
    rates = each.info["frames_per_us"]
    return {
        "frames": f"{each.params['size']} B",
        "ours, M/s": f"{rates[OURS]:.2f}",
        "testpmd, M/s": f"{rates[DAEMON]:.2f}",
        "ratio": f"{each.info['ratio']:.2f}",
    }


def _stream(each: Benchmark) -> Row:
    memory = size(each.params["mib"] << 20)
    again = ", again" if each.params["state"] == AGAIN else ""
    ours, floor = each.info["mib_per_s"]
    cpu, floor_cpu = each.info["cpu_ms_per_gib"]
    return {
        "transport": each.params["transport"],
        "memory": memory + again,
        "streams": str(each.params["streams"]),
        "ours, MiB/s": f"{ours:.0f}",
        "floor, MiB/s": f"{floor:.0f}",
        "ratio": f"{each.info['ratio']:.0%}",
        "ours, CPU ms": f"{cpu:.0f}",
        "floor, CPU ms": f"{floor_cpu:.0f}",
    }


def _dirty_log(each: Benchmark) -> Row:
    return {
        "marked pages": each.name,
        "runs": f"{int(each.cells['runs']):,}",
        "ms": f"{each.seconds * 1e3:.2f}",
    }


#: By the name in the line before it: the benchmarks of a table, and what makes a row of one.
TABLES: dict[str, tuple[str, Callable[[Benchmark], Row]]] = {
    "disks": (DISK, _disk),
    "NICs": (NIC, _nic),
    "streams": (STREAMS, _stream),
    "dirty log": (DIRTY_LOG, _dirty_log),
}


def lines(name: str, session: Session) -> list[str]:
    """One table, below the properties of its run; empty if the session did not measure it."""
    function, row = TABLES[name]
    found = list(session.of(function))
    if not found:
        return []
    begin, end = session.load_averages
    facts = f"{session.date}, {session.host}, load average {begin:.1f} to {end:.1f}:"
    return ["", facts, "", *markdown([row(each) for each in found]), ""]


def document(text: str, session: Session) -> tuple[str, list[str]]:
    """The document with the tables of a session, and the names of those that it did not measure.

    The latter are not changed.

    Raises:
        ValueError: the lines around a table are missing.
    """
    kept = []
    for name in TABLES:
        before, found, rest = text.partition(begin(name))
        old, end, after = rest.partition(END)
        if not found or not end or _WRITTEN in old:
            raise ValueError(f"{DOCUMENT} has no {begin(name)!r} with {END!r} after it")
        if new := lines(name, session):
            text = "\n".join([before + found, *new, end + after])
        else:
            kept.append(name)
    return text, kept
