"""Results and their documents, without a peer."""

from __future__ import annotations

import os
import shutil
import struct
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.peers import bare_guest, explanations, install, pages, results
from tests.peers.explanations import Explanation
from tests.peers.feature_names import features, protocol_features
from tests.peers.newer import ENTER, inside
from tests.peers.programs import fill, missing, number
from tests.peers.record import Record, distil, load_all, worst
from tests.peers.table import NEWER, PEERS, Peer
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.target import ROLES, cases_of

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = Explanation(
    ("virtiofsd",), "7.2", ("VU-B-0401",), "it sleeps", "no program may", sometimes=False
)
OURS = next(peer for peer in PEERS if peer.name == "vhost-emu-net")


def document(**verdicts: str) -> dict[str, Any]:
    """The document of ``--json`` on cases 0401 and 0402."""
    cases = [
        {
            "id": f"VU-B-{name[1:]}",
            "area": "rings",
            "rule": f"rule {name[1:]}",
            "spec": "Ring states",
            "verdict": verdict,
            "expected": "it to work",
            "seen": "it does not\n> GET_FEATURES",
        }
        for name, verdict in verdicts.items()
    ]
    return {
        "role": BACK_END,
        "peer": {"device": "fs"},
        "offered": {"features": "0x140000001", "protocol_features": "0x9", "rings": 2},
        "cases": cases,
    }


def record_of(
    *documents: dict[str, Any], peer: str = "virtiofsd", version: str = "7.2.22"
) -> Record:
    """A record of these runs."""
    output = f"{peer} version {version}"
    return distil(
        documents,
        peer=peer,
        version=version,
        version_output=output,
        command="x {socket}",
        seconds=3.04,
    )


def test_worst_verdict() -> None:
    """A case that failed once counts as FAIL."""
    assert worst(["PASS", "FAIL", "ERROR"]) == "FAIL"
    assert worst(["PASS", "OBSERVED"]) == "OBSERVED"
    assert worst(["UNSUPPORTED", "PASS"]) == "PASS"


def test_runs_become_a_record(tmp_path: Path) -> None:
    """It counts verdicts, keeps failures, and is read back from its file unchanged."""
    record = record_of(
        document(_0401="PASS", _0402="PASS", _0403="OBSERVED"),
        document(_0401="FAIL", _0402="PASS", _0403="PASS"),
    )
    assert record.areas == {"rings": {"FAIL": 1, "PASS": 1, "OBSERVED": 1}}
    assert [row.id for row in record.bad] == ["VU-B-0401"]
    assert [row.id for row in record.flaky] == ["VU-B-0401", "VU-B-0403"]
    assert record.rows[0].verdicts == ("PASS", "FAIL")
    assert record.seconds == 3.0
    record.save(tmp_path)
    assert load_all(tmp_path) == [record]


@pytest.mark.parametrize(
    ("version", "start", "fits"),
    [
        ("7.2.22", "7.2", True),
        ("10.0.13", "7.2 10.0", True),
        ("9.1", "7.2 10.0", False),
        ("7.2.22", "7.2.2", False),
        ("7.22", "7.2", False),
        ("8", "7", False),
    ],
)
def test_versions(version: str, start: str, fits: bool) -> None:
    """By their numbers, not as strings."""
    record = record_of(document(_0401="FAIL"), version=version)
    assert ENTRY._replace(versions=start).about(record) is fits


def test_unexplained() -> None:
    """A case without an entry for this peer and version."""
    record = record_of(document(_0401="FAIL", _0402="FAIL", _0403="ERROR", _0404="PASS"))
    assert explanations.unexplained(record, [ENTRY]) == ["VU-B-0402", "VU-B-0403"]
    other = record_of(document(_0401="FAIL"), peer="dpdk-testpmd")
    assert explanations.unexplained(other, [ENTRY]) == ["VU-B-0401"]


def test_stale() -> None:
    """An entry whose cases all pass, unless they fail only sometimes or were not run."""
    passes, fails = record_of(document(_0401="PASS")), record_of(document(_0401="FAIL"))
    assert explanations.stale([fails], [ENTRY]) == []
    [line] = explanations.stale([passes], [ENTRY])
    assert "VU-B-0401 did not fail on virtiofsd 7.2.22" in line
    assert explanations.stale([passes], [ENTRY._replace(sometimes=True)]) == []
    assert explanations.stale([], [ENTRY]) == []
    assert explanations.stale([record_of(document(_0401="PASS"), version="8.0")], [ENTRY]) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('peers = ["virtiofsd"]', "missing"),
        ('peers = ["x"]\nversions = "1"\ncases = []\ndoes = ""\nwrong = ""', "unknown x"),
        (
            'peers = []\nversions = "1"\ncases = ["VU-B-9999"]\ndoes = ""\nwrong = ""',
            "unknown VU-B-9999",
        ),
        ('peers = []\nversions = "1"\ncases = []\ndoes = ""\nwrong = ""\nmood = 1', "mood"),
    ],
)
def test_an_invalid_entry(tmp_path: Path, text: str, why: str) -> None:
    """The error has its number and the reason."""
    path = tmp_path / "e.toml"
    path.write_text(f"[[explanation]]\n{text}\n")
    with pytest.raises(ValueError, match=f"explanation 1: .*{why}"):
        explanations.load(path)


def test_pages() -> None:
    """The contents of a page."""
    record = record_of(
        document(_0401="FAIL", _0402="FAIL", _0403="ERROR", _0404="PASS"),
        document(_0401="FAIL", _0402="PASS", _0403="ERROR", _0404="PASS"),
    )
    texts = pages.documents([record], [ENTRY])
    assert set(texts) == {"README.md", "virtiofsd-7.2.22.md"}
    assert (
        "| [virtiofsd](virtiofsd-7.2.22.md) | 7.2.22 | 1 | 2 | 0 | 0 | 1 | 3 s |"
        in texts["README.md"]
    )
    page = texts["virtiofsd-7.2.22.md"]
    assert "NOTIFICATION, PROTOCOL_FEATURES, VERSION_1" in page
    assert "0x9: MQ, REPLY_ACK" in page
    assert "| rings | 1 | 2 | - | - | 1 |" in page
    assert "What it does: it sleeps." in page
    assert "Why that is wrong: no program may." in page
    assert "### VU-B-0402\n\n**Not explained yet.**" in page
    assert "VU-B-0401 FAIL rule 0401 (Ring states)\n      expected: it to work" in page
    assert "## ERROR: the suite has no verdict\n\n    VU-B-0403" in page
    assert "- VU-B-0402 (rule 0402): FAIL, PASS" in page


def test_a_page_without_a_record_is_removed(tmp_path: Path) -> None:
    """Pages of records stay."""
    (tmp_path / "old-1.0.md").write_text("x")
    pages.write(tmp_path, [record_of(document(_0401="PASS"))], [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "virtiofsd-7.2.22.md"]


def test_the_documents_are_up_to_date() -> None:
    """`make docs` writes them from the records and the explanations."""
    written = {path.name: path.read_text() for path in results.FOLDER.glob("*.md")}
    assert written == pages.documents(load_all(results.FOLDER), explanations.load())


def test_recorded_failures_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Each FAIL and ERROR in the records is explained, and no explanation is stale."""
    records = load_all(results.FOLDER)
    tested = {record.peer for record in records}
    assert {peer.name for peer in PEERS} <= tested <= {peer.name for peer in (*PEERS, *NEWER)}
    assert results.judge(records, explanations.load()) == 0
    assert capsys.readouterr().out == ""


def test_feature_names() -> None:
    """By class of device; a bit without a name has its number."""
    assert features(1 << 5 | 1 << 45, "net") == ["MAC", "bit 45"]
    assert features(1 << 5, "blk") == ["RO"]
    assert protocol_features(1 << 3 | 1 << 40) == ["REPLY_ACK", "bit 40"]


def test_the_table() -> None:
    """Names are unique; areas exist; commands have their placeholders."""
    assert len({peer.name for peer in PEERS}) == len(PEERS)
    areas = {role: {case.area for case in cases_of(role)} for role in ROLES}
    for peer in PEERS:
        assert set(peer.quick) <= areas[peer.role], peer.name
        assert "{socket}" in peer.command


def test_fill(tmp_path: Path) -> None:
    """Placeholders are replaced, except those of ``emu conform``."""
    disk = next(peer for peer in PEERS if peer.name == "vhost-emu-blk")
    command = fill(disk, tmp_path)
    assert f"--blk-file {tmp_path / 'disk.img'} --num-queues 4" in command
    assert "--socket-path {socket}" in command
    assert (tmp_path / "disk.img").exists()
    assert "--blk-file '/a b'" in fill(disk, tmp_path, image="/a b")


#: Values for all placeholders, so that nothing is made.
PLACES = dict.fromkeys(("image", "prefix", "guest"), "x")


def test_a_peer_in_a_chroot(tmp_path: Path) -> None:
    """Its command is entered; the record has the command alone, and names are unique there too."""
    assert len({peer.name for peer in NEWER}) == len(NEWER)
    for peer in NEWER:
        entered = inside(peer, tmp_path)
        assert entered.command == peer.command
        assert fill(entered, tmp_path, **PLACES).startswith(f"{ENTER} {tmp_path} ")
        assert entered.version[:2] == (str(ENTER), str(tmp_path))
    assert os.access(ENTER, os.X_OK)


def test_the_guest_without_an_operating_system(tmp_path: Path) -> None:
    """QEMU's firmware looks for the Multiboot header in the first 8 KiB of a 64-bit program."""
    content = bare_guest.build(tmp_path).read_bytes()
    assert content[:5] == b"\x7fELF\x02"
    magic, flags = 0x1BADB002, 1 << 16  # with addresses
    assert struct.pack("<III", magic, flags, 2**32 - magic - flags) in content[:8192]


def test_number() -> None:
    """A version number is found in the output of programs."""
    assert number("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)") == "7.2.22"
    assert number("EAL: RTE Version: 'DPDK 22.11.11'") == "22.11.11"
    assert number("Copyright (c) 2003") == ""


def test_a_peer_that_is_missing() -> None:
    """The text names the package to install."""
    peer = OURS._replace(program="no-such-program", packages="no-such-package")
    assert "no-such-program is not installed (Debian: apt-get install no-such-package" in missing(
        peer
    )


def command_of(script: str) -> Peer:
    """A peer that is a line of Python."""
    return OURS._replace(command=f"{sys.executable} -c '{script}' {{socket}}")


def test_a_peer_that_does_not_start(tmp_path: Path) -> None:
    """It is an error with the reason."""
    with pytest.raises(results.PeerRunError, match=r"ended with status 1: emu: .*status 3"):
        results.conform(command_of("raise SystemExit(3)"), tmp_path)


def test_a_run_that_takes_too_long(tmp_path: Path) -> None:
    """It is ended after its time limit, and so is the peer."""
    with pytest.raises(results.PeerRunError, match="did not end within 2 s"):
        results.conform(command_of("import time; time.sleep(30)"), tmp_path, limit=2)


@pytest.mark.slow
def test_our_nic_from_the_command_to_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The whole of ``make peers``, with a few cases."""
    conform = results.conform
    monkeypatch.setattr(
        results, "conform", lambda peer, folder: conform(peer, folder, "--only", "bases")
    )
    assert results.main(["vhost-emu-net", "--folder", str(tmp_path)]) == 0
    [record] = load_all(tmp_path)
    assert record.peer == "vhost-emu-net"
    assert record.runs == OURS.runs
    assert set(record.areas) == {"bases"}
    assert f"{record.name}.md" in {path.name for path in tmp_path.iterdir()}
    assert f"vhost-emu-net {record.version}: 17 PASS" in capsys.readouterr().out


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are no duplicates; without apt-get the error is one line."""
    packages = install.wanted()
    assert len(packages) == len(set(packages))
    assert {"qemu-system-x86", "dpdk-dev", "fio", "linux-image-cloud-amd64"} <= set(packages)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(install.InstallError, match="the system is not Debian: install qemu-system"):
        install.missing(packages)


def test_an_installation_that_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is one line and an exit status."""
    monkeypatch.setattr(install, "missing", lambda packages: packages)
    monkeypatch.setattr(install, "run", _no_network)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert install.main() == 1
    assert capsys.readouterr().err == "peers-install: no network\n"


def _no_network(_argv: list[str], _limit: float) -> None:
    raise install.InstallError("no network")
