"""Documents as the benchmarks write them, with few benchmarks and without what nobody reads."""

from __future__ import annotations

from typing import Any

from bench.figures import DAEMON, IO_URING, OURS, duration
from bench.session import Session


def benchmark(
    fullname: str,
    group: str,
    *,
    seconds: float = 0.001,
    params: dict[str, Any] | None = None,
    cells: dict[str, str] | None = None,
    **info: Any,
) -> dict[str, Any]:
    """One benchmark; its name in the summary is that of the function with the parameters."""
    name = fullname.partition("::test_")[2]
    shown = {"benchmark": name, "median": duration(seconds), **(cells or {})}
    return {
        "fullname": fullname,
        "group": group,
        "params": params,
        "extra_info": {"median_ms": seconds * 1e3, "cells": shown, **info},
    }


def document(*benchmarks: dict[str, Any], **session: Any) -> dict[str, Any]:
    """The JSON of a session; by default all of `make bench` was run, on an idle host."""
    return {
        "machine_info": {
            "cpus": 2,
            "memory_bytes": 16 << 30,
            "machine": "x86_64",
            "cpu": {"brand_raw": "Some CPU"},
            "system": "Linux",
            "release": "6.1.2-name",
            "python_implementation": "CPython",
            "python_version": "3.11.7",
        },
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2026-11-30T23:59:00+00:00",
        "benchmarks": list(benchmarks),
        "session": {
            "command": "pytest bench",
            "seconds": 432.1,
            "load_averages": [0.25, 1.75],
            "not_measured": [],
            **session,
        },
    }


def session(*benchmarks: dict[str, Any], **changes: Any) -> Session:
    """The same, read."""
    return Session(document(*benchmarks, **changes))


def skipped(fullname: str, reason: str) -> dict[str, str]:
    """An element of ``not_measured``."""
    return {"fullname": fullname, "outcome": "skipped", "reason": reason}


def failed(fullname: str) -> dict[str, str]:
    """The same of a benchmark that has failed."""
    return {"fullname": fullname, "outcome": "failed", "reason": ""}


def disk(kind: str, kib: int, rings: int, depth: int, ratio: float) -> dict[str, Any]:
    """A point of a disk's data path."""
    return benchmark(
        f"bench_data_path.py::test_disk[{kind}-{kib}k-{rings}-{depth}]",
        f"data path: {kind}s of a disk, {kib} KiB",
        params={"kind": kind, "block": kib << 10, "rings": rings, "depth": depth},
        us_per_request={OURS: 2.0, DAEMON: 2.0 * ratio, IO_URING: 1.0},
        ratio=ratio,
    )


def nic(size: int, ratio: float, rate: float) -> dict[str, Any]:
    """A NIC's data path, with millions of frames a second."""
    return benchmark(
        f"bench_data_path.py::test_nic[{size}]",
        "data path: frames of a NIC",
        params={"size": size},
        frames_per_us={OURS: rate, DAEMON: rate / ratio},
        ratio=ratio,
    )


def stream(
    transport: str, mib: int, streams: int, ratio: float, state: str = "new"
) -> dict[str, Any]:
    """A transfer of pre-copy."""
    return benchmark(
        f"bench_streams.py::test_streams[{transport}-{mib}-{streams}-{state}]",
        f"streams {transport}",
        params={"transport": transport, "mib": mib, "streams": streams, "state": state},
        mib_per_s=[1000 * ratio, 1000.0],
        ratio=ratio,
        cpu_ms_per_gib=[1100.0, 1000.4],
    )


def dirty_log(name: str, runs: int, seconds: float) -> dict[str, Any]:
    """A search in the dirty log."""
    made = benchmark(
        f"bench_dirty_log.py::test_dirty_log[{name}]",
        "dirty log",
        seconds=seconds,
        params={"length": 4096, "distance": 1},
        cells={"runs": str(runs)},
    )
    made["extra_info"]["cells"]["benchmark"] = name
    return made


def downtime(setting: str, strategy: str, **info: Any) -> dict[str, Any]:
    """Migrations of one setting by one strategy."""
    return benchmark(
        f"bench_downtime.py::test_downtime[{setting}-{strategy}]",
        f"downtime: {setting}",
        params={"strategy": strategy, "migrations": "UNSERIALIZABLE"},
        strategy=strategy,
        **info,
    )


def tapped(name: str, kind: str, more_us: float) -> dict[str, Any]:
    """Round trips with a tap."""
    return benchmark(
        f"bench_tap.py::test_round_trip[{name}-{kind}]",
        "tap",
        params={"name": name, "kind": kind},
        more_us=more_us,
    )
