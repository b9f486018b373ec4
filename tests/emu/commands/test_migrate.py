"""`emu migrate`: its report and document, and options that exclude each other."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from emu.commands.migrate import migrate
from emu.errors import OptionError
from emu.strategies import registry
from tests.emu.test_cli import EMU, SHAPE, SMALL, emu
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from pathlib import Path

VM = ("--vcpus", "2", "--memory", "256M", "--load", "light", "--accel", "soft")


def test_a_migration_writes_a_document_and_prints_a_table(tmp_path: Path) -> None:
    """With a small VM."""
    path = tmp_path / "out.json"
    result = emu("migrate", *SMALL, "--strategy", "qemu-2021,prewired", "--json", str(path))
    assert result.returncode == 0, result.stderr
    assert "lost 0, duplicated 0, corrupted 0" in result.stdout
    document = json.loads(path.read_text())
    assert [run["strategy"] for run in document["runs"]] == ["qemu-2021", "prewired"]
    for run in document["runs"]:
        assert run["outcome"] == "completed"
        assert run["requests_in_flight_at_stop"] > 0
        assert run["network_gap_ms"] > 0
        assert run["integrity"]["requests"] > 0
        assert {row["class"] for row in run["phases"]} == {"vm", "net", "blk"}


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(("migrate", *SMALL, "-s", "split"), id="migrate"),
        pytest.param(
            ("sweep", "--devices", "2", "--rings", "2", *VM, "-s", "split"),
            id="sweep",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_ctrl_c_keeps_the_migrations_that_are_finished(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """The report and all files have them, and the number of those that are missing."""
    path, metrics = tmp_path / "out.json", tmp_path / "metrics.txt"
    argv = (*EMU, *command, "--repeat", "1000", "--json", str(path), "--openmetrics", str(metrics))
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if ": downtime " in line:
                break
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=PROGRAM_TIMEOUT)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "emu: ended by SIGINT"
    whole = json.loads(path.read_text())
    (document,) = whole.get("migrations", [whole])
    finished = len(document["runs"])
    assert finished > 0
    assert whole["not_run"] == document["not_run"] == 1000 - finished
    assert {run["outcome"] for run in document["runs"]} == {"completed"}
    assert f"{1000 - finished} of 1000 migrations were not finished" in printed
    assert metrics.read_text().endswith("# EOF\n")


@pytest.mark.slow
def test_a_migration_with_kvm(tmp_path: Path) -> None:
    """With `--accel auto`, and with `--accel kvm` where KVM works."""
    for accel in ("auto", "kvm"):
        path = tmp_path / f"{accel}.json"
        command = ("migrate", *SHAPE, "--accel", accel, "--strategy", "qemu-2021,prewired")
        result = emu(*command, "--json", str(path))
        if accel == "kvm" and "--accel kvm: " in result.stderr:
            pytest.skip(result.stderr)
        assert result.returncode == 0, result.stderr
        document = json.loads(path.read_text())
        assert document["accel"] in {"soft", "kvm"}
        assert [run["outcome"] for run in document["runs"]] == ["completed", "completed"]
    assert document["accel"] == "kvm"


@pytest.mark.slow
def test_with_json_on_stdout_the_report_is_on_stderr() -> None:
    """So that the document can be piped."""
    result = emu("migrate", *SMALL, "--strategy", "split", "--json", "-")
    assert json.loads(result.stdout)["schema"] == 1
    assert "integrity:" in result.stderr


@pytest.mark.slow
def test_the_digests_of_guest_and_host_are_equal(tmp_path: Path) -> None:
    """For a disk that is only read, and for one that is written back."""
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(3 << 20) + bytes(5 << 20) + os.urandom(512))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for write in ((), ("--write",)):
        result = emu("migrate", *SMALL, "--strategy", "split", "--disk", str(path), *write)
        assert result.returncode == 0, result.stderr
        assert "across 1 of 1 migrations with the digest that the host has" in result.stdout
        assert f"sha256 {digest}\n" in result.stdout
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--strategy", "split,prewired"), "the VM goes only once, and 2 strategies were given"),
        (("--strategy", "handover"), "handover keeps the VM's back-ends"),
        (("--repeat", "2"), "--repeat does not go with --to"),
        (("--network", "netns"), "--network does not go with --to"),
        (("--via", "tcp"), "--via does not go with --to"),
    ],
)
def test_options_that_exclude_a_migration_to_another_run(
    arguments: tuple[str, ...], text: str
) -> None:
    """Before a process is started."""
    to = ("--to", "tcp:127.0.0.1:4444", "--net", "1x2", "--blk", "0")
    with pytest.raises(OptionError, match=text):
        migrate.main([*to, *arguments], standalone_mode=False)


def test_the_help_lists_each_strategy() -> None:
    """With its one-line description."""
    text = CliRunner().invoke(migrate, ["--help"]).output
    for name, strategy in registry.STRATEGIES.items():
        assert f"  {name} " in text
        assert strategy.HELP.split()[0] in text
