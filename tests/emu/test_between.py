"""A migration from `emu migrate --to` to `emu run --incoming`, as two commands."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import json
import socket
import subprocess
from typing import TYPE_CHECKING

import pytest

from emu.report.cells import milliseconds
from tests import slow
from tests.emu.migration.certificates import Authority
from tests.emu.runs import EMU, Run
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from emu.migration.tls import Credentials

SMALL = ("--net", "1x2", "--blk", "2x2", "--vcpus", "2", "--memory", "256M")
#: Runs a command in a time namespace of its own.
OTHER_CLOCK = ("unshare", "-Ur", "--time", "--monotonic")
#: Seconds by which its clock is ahead: longer than any test runs.
AHEAD = 5000


class Terminals:
    """Starts a source and a destination, with a common directory of images."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        self._runs: list[Run] = []

    def incoming(
        self, *arguments: str, uri: str = "tcp:127.0.0.1:0", before: Sequence[str] = ()
    ) -> tuple[Run, str]:
        """Start a destination; return it and the address where it listens."""
        run = self._start("destination", ("run", "--incoming", uri, *arguments), before)
        return run, run.await_line("waiting for a VM at ").rpartition(" ")[2]

    def to(self, uri: str, *arguments: str, before: Sequence[str] = ()) -> Run:
        """Start a source that migrates to that address."""
        return self._start("source", ("migrate", "--to", uri, *arguments), before)

    def _start(self, name: str, argv: Sequence[str], before: Sequence[str]) -> Run:
        shape = () if "--net" in argv else SMALL
        images = () if "--images" in argv else ("--images", str(self.images))
        run = Run(self._folder / f"{name}.err", (*argv, *shape, *images), before=before)
        self._runs.append(run)
        return run

    def close(self) -> None:
        """End the runs that a failed test has left."""
        for run in self._runs:
            run.close()


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    """A source and a destination."""
    made = Terminals(tmp_path)
    yield made
    made.close()


def _tls(credentials: Credentials) -> tuple[str, ...]:
    cert, key, ca, _ = credentials
    return ("--tls-cert", cert, "--tls-key", key, "--tls-ca", ca)


@pytest.mark.parametrize("kind", slow.all_but({"tcp"}, ["tcp", "unix", "tls"]))
def test_a_vm_migrates_from_one_run_to_the_other(
    terminals: Terminals, tmp_path: Path, kind: str
) -> None:
    """The source prints the table, the destination the migration and the integrity."""
    uri = f"unix:{tmp_path / 'stream'}" if kind == "unix" else "tcp:127.0.0.1:0"
    source_tls: tuple[str, ...] = ()
    destination_tls: tuple[str, ...] = ()
    if kind == "tls":
        ca = Authority(tmp_path)
        source_tls = (*_tls(ca.credentials("source")), "--streams", "2")
        destination_tls = _tls(ca.credentials("destination"))
    there = tmp_path / "destination.json"
    here = tmp_path / "source.json"
    destination, uri = terminals.incoming(
        "--for", "1s", "--json", str(there), *destination_tls, uri=uri
    )
    source = terminals.to(uri, "--json", str(here), *source_tls).end()
    assert source.status == 0, source.err
    arrived = destination.await_line("the VM has arrived: prewired, downtime ")
    ended = destination.end()
    assert ended.status == 0, ended.err
    assert f"the VM runs at {uri}" in source.err
    assert "| prewired |" in source.out
    assert "the destination checks the guest's request log" in source.out
    assert "lost 0, duplicated 0, corrupted 0" in ended.out
    (run,) = json.loads(here.read_text())["runs"]
    assert run["integrity"] is None
    assert "downtime_error_ms" not in run
    assert run["guest_gap_ms"] > 0
    assert {row["phase"][:3] for row in run["phases"]} == {"src", "dst"}
    document = json.loads(there.read_text())
    assert f"downtime {run['downtime_ms']:.2f} ms" in arrived
    assert document["arrival"]["downtime_ms"] == pytest.approx(run["downtime_ms"], abs=1e-3)
    assert document["integrity"]["requests"] > document["arrival"]["served_before"] - 100 > 0
    assert sorted(path.name for path in terminals.images.iterdir()) == ["blk0.img", "blk1.img"]
    assert not (tmp_path / "stream").exists()


@pytest.mark.slow
@pytest.mark.parametrize("ahead", ["source", "destination"])
def test_the_downtime_across_two_clocks_has_a_bound(
    terminals: Terminals, tmp_path: Path, ahead: str
) -> None:
    """The clock of one side's programs is ahead, as on a host that booted earlier."""
    before = (*OTHER_CLOCK, str(AHEAD))
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a time namespace may not be made here")
    destination, uri = terminals.incoming(
        "--for", "1s", before=before if ahead == "destination" else ()
    )
    path = tmp_path / "source.json"
    run = terminals.to(uri, "--json", str(path), before=before if ahead == "source" else ())
    source = run.end()
    assert source.status == 0, source.err
    ended = destination.end()
    assert ended.status == 0, ended.err
    (result,) = json.loads(path.read_text())["runs"]
    bound = result["downtime_error_ms"]
    assert 0 < bound < AHEAD * 1000
    # The guest's clock was shifted by the same offset, so its gap is the same.
    assert 0 < result["guest_gap_ms"] < AHEAD * 1000
    assert 0 < result["downtime_ms"] < AHEAD * 1000
    assert f"{milliseconds(result['downtime_ms'])} ±" in source.out
    assert "the offset of the hosts' clocks is measured by round trips" in source.out
    assert " ±" in ended.err
    assert "lost 0, duplicated 0, corrupted 0" in ended.out


@pytest.mark.slow
def test_another_vm_is_refused_by_name_on_both_sides(terminals: Terminals) -> None:
    """One line each; the source's VM runs on and has lost no request."""
    destination, uri = terminals.incoming()
    other = ("--net", "1x4", "--blk", "2x2", "--vcpus", "3", "--memory", "256M")
    source = terminals.to(uri, *other).end()
    ended = destination.end()
    for said in (
        "vcpus: 3 at the source, 2 at the destination",
        "devices: net0x4 at the source only, net0x2 at the destination only",
    ):
        assert said in source.out
        assert said in ended.last
    assert (source.status, ended.status) == (1, 1)
    assert "prewired, run 1: rolled-back: destination: handshake: " in source.out
    assert "lost 0, duplicated 0, corrupted 0" in source.out
    assert source.err.count("emu: ") == ended.err.count("emu: ") == 1


@pytest.mark.slow
def test_other_images_are_refused(terminals: Terminals, tmp_path: Path) -> None:
    """A directory of the same name on another host is a different one."""
    other = tmp_path / "elsewhere"
    other.mkdir()
    destination, uri = terminals.incoming()
    source = terminals.to(uri, "--images", str(other)).end()
    ended = destination.end()
    said = f"disks: --images {terminals.images} of the destination is not the source's directory"
    assert said in source.out
    assert said in ended.last
    assert sorted(path.name for path in other.iterdir()) == ["blk0.img", "blk1.img"]


@pytest.mark.slow
def test_another_disk_is_refused(terminals: Terminals, tmp_path: Path) -> None:
    """A copy is accepted, other contents are not."""
    disks = []
    for name, content in (("a", b"a" * 4096), ("b", b"b" * 4096)):
        disks.append(tmp_path / f"{name}.img")
        disks[-1].write_bytes(content)
    destination, uri = terminals.incoming("--disk", str(disks[0]))
    source = terminals.to(uri, "--disk", str(disks[1])).end()
    ended = destination.end()
    assert (source.status, ended.status) == (1, 1)
    for text in (source.out, ended.last):
        assert "blk0: --disk differs, sha256 " in text


@pytest.mark.slow
def test_a_wrong_certificate_is_one_line_on_both_sides(
    terminals: Terminals, tmp_path: Path
) -> None:
    ca = Authority(tmp_path)
    stranger = Authority(tmp_path, "other").credentials("source", trusts=ca)
    destination, uri = terminals.incoming(*_tls(ca.credentials("destination")))
    source = terminals.to(uri, *_tls(stranger)).end()
    ended = destination.end()
    assert (source.status, ended.status) == (1, 1)
    assert "refuses this side's certificate: its --tls-ca did not sign it" in source.out
    assert "the other side's certificate is refused" in ended.last
    assert "lost 0, duplicated 0, corrupted 0" in source.out


def test_ctrl_c_at_a_destination_that_waits_leaves_nothing(terminals: Terminals) -> None:
    destination, _ = terminals.incoming()
    destination.interrupt()
    ended = destination.end()
    assert (ended.status, ended.last) == (130, "emu: ended by SIGINT")


@pytest.mark.slow
def test_ctrl_c_at_the_destination_leaves_the_vm_at_the_source(terminals: Terminals) -> None:
    """During pre-copy."""
    destination, uri = terminals.incoming()
    slow = ("--dirty-rate", "4M", "--max-bandwidth", "1M")
    source = terminals.to(uri, *slow)
    source.await_line("round 1: ")
    destination.interrupt()
    ended, stayed = destination.end(), source.end()
    assert (ended.status, ended.last) == (130, "emu: ended by SIGINT")
    assert stayed.status == 1
    assert "rolled-back" in stayed.last
    assert "lost 0, duplicated 0, corrupted 0" in stayed.out


@pytest.mark.slow
def test_ctrl_c_at_the_source_ends_both(terminals: Terminals) -> None:
    """During pre-copy; the source removes its mark from the directory of images."""
    destination, uri = terminals.incoming()
    source = terminals.to(uri, "--dirty-rate", "4M", "--max-bandwidth", "1M")
    source.await_line("round 1: ")
    source.interrupt()
    gone, ended = source.end(), destination.end()
    assert (gone.status, gone.last) == (130, "emu: ended by SIGINT")
    assert ended.status == 1
    assert ended.last.startswith("emu: incoming: the migration failed: ")
    assert sorted(path.name for path in terminals.images.iterdir()) == ["blk0.img", "blk1.img"]


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    slow.after(
        4,
        [
            (("migrate", "--to", "nowhere"), 2, "write unix:PATH or tcp:ADDRESS:PORT"),
            (
                ("migrate", "--to", "tcp:192.0.2.1:4444"),
                1,
                "give --tls-cert, --tls-key and --tls-ca",
            ),
            (("run", "--incoming", "tcp:0.0.0.0:4444"), 1, "or --insecure"),
            (("run", "--incoming", "unix:/tmp/x", "--tls-cert", "x"), 2, "TLS needs all three"),
            (("run", "--tls-ca", "x"), 2, "--tls-ca goes with --incoming"),
            (("run", "--insecure"), 2, "--insecure goes with --incoming"),
            (("migrate", "--tls-hostname", "x"), 2, "--tls-hostname goes with --to"),
            (("migrate", "--to", "unix:/tmp/x"), 2, "--to needs --images DIR"),
            (("run", "--incoming", "unix:/tmp/x", "--images", "/none"), 1, "no such directory"),
            (
                ("migrate", "--to", "unix:/tmp/x", "--repeat", "2"),
                2,
                "--repeat does not go with --to",
            ),
            (("migrate", "--to", "unix:/tmp/x", "-s", "split,threads"), 2, "goes only once"),
            (("migrate", "--streams", "0"), 2, "0 is not in the range"),
        ],
    ),
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], status: int, line: str) -> None:
    """Before a process is started."""
    done = subprocess.run(
        [*EMU, *arguments, *SMALL],
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
    )
    assert (done.returncode, done.stdout) == (status, "")
    assert line in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("kind", slow.all_but({"no path"}, ["no path", "stale path", "no port"]))
def test_a_destination_that_does_not_listen_is_one_line_before_the_boot(
    terminals: Terminals, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "none"
    uri, reason = f"unix:{path}", "No such file"
    with socket.socket(socket.AF_UNIX) as stale, socket.socket() as port:
        if kind == "stale path":
            stale.bind(str(path))
            reason = "Connection refused"
        if kind == "no port":
            port.bind(("127.0.0.1", 0))
            uri, reason = f"tcp:127.0.0.1:{port.getsockname()[1]}", "Connection refused"
        source = terminals.to(uri).end()
    assert (source.status, source.out) == (1, "")
    assert source.last.startswith(f"emu: connect: {uri}: {reason}")
    assert "boot" not in source.err
