"""A session of benchmarks, read from its JSON."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from bench.session import Session, function_of
from tests.bench.session_documents import benchmark, dirty_log, document, failed, session, skipped

if TYPE_CHECKING:
    from pathlib import Path


def test_the_run_and_its_host(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text(json.dumps(document()))
    read = Session.read(file)
    assert read.command == "make bench"
    assert read.is_whole
    assert read.date == "2026-11-30"
    assert read.revision == "commit 0123456789ab"
    assert read.host == "2 CPUs (Some CPU), 16.0 GiB of memory, Linux 6.1.2, CPython 3.11.7"
    assert read.load_averages == (0.25, 1.75)
    assert not read.busy


def test_a_part_of_the_benchmarks_is_not_make_bench() -> None:
    read = session(command="pytest bench/bench_tap.py")
    assert read.command == ".venv/bin/pytest bench/bench_tap.py"
    assert not read.is_whole


def test_a_host_is_busy_when_others_have_half_of_its_cpus_before_the_begin() -> None:
    assert session(load_averages=[1.0, 1.0]).busy
    assert not session(load_averages=[0.9, 5.0]).busy


def test_what_a_host_does_not_report_is_left_out() -> None:
    made = document()
    made["machine_info"]["cpu"] = {}
    made["commit_info"] = {"id": None, "error": "no git"}
    read = Session(made)
    assert read.host.startswith("2 CPUs (x86_64), ")
    assert read.revision == ""
    made["commit_info"] = {"id": "0123456789abcdef", "dirty": True}
    assert Session(made).revision == "commit 0123456789ab with changes that are not committed"


def test_the_members_of_a_group_are_together_in_the_order_in_which_they_ran() -> None:
    names = [("bench_a.py::test_x[1]", "one"), ("bench_a.py::test_y", "two")]
    names += [("bench_a.py::test_x[2]", "one")]
    read = session(*(benchmark(*each) for each in names))
    groups = {name: [each.name for each in group] for name, group in read.groups.items()}
    assert groups == {"one": ["x[1]", "x[2]"], "two": ["y"]}
    assert [each.name for each in read.of("bench_a.test_x")] == ["x[1]", "x[2]"]


def test_a_benchmark_that_failed_has_no_result() -> None:
    """Also if it was timed before; and one that the hooks have not seen has none either."""
    unseen = benchmark("bench_a.py::test_z", "group")
    del unseen["extra_info"]["cells"]
    made = [benchmark("bench_a.py::test_x", "group"), benchmark("bench_a.py::test_y", "group")]
    read = session(*made, unseen, not_measured=[failed("bench_a.py::test_y")])
    assert [each.name for each in read.benchmarks] == ["x"]


def test_what_is_missing_is_found_by_its_name() -> None:
    names = ["bench_a.py::test_x[plain-1]", "bench_a.py::test_x[TLS-1]"]
    read = session(not_measured=[skipped(name, "no") for name in names])
    assert [each.fullname for each in read.missing(r"test_x\[plain")] == names[:1]


def test_times_are_medians() -> None:
    (read,) = session(dirty_log("a page", 1, 0.0045)).benchmarks
    assert read.seconds == pytest.approx(0.0045)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("bench/bench_tap.py::test_data_path", "bench_tap.test_data_path"),
        ("bench_tap.py::test_x[a/b::c]", "bench_tap.test_x"),
    ],
)
def test_the_function_of_a_name(name: str, function: str) -> None:
    assert function_of(name) == function


def test_a_document_of_other_benchmarks_is_refused() -> None:
    made = document()
    del made["session"]
    with pytest.raises(ValueError, match="no 'session'"):
        Session(made)
