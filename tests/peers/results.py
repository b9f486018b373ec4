"""Runs the suite on all peers and writes the results: ``make peers``.

``python -m tests.peers.results [--write-only] [NAME...]``. The status is 0 when each named
peer was tested, and each FAIL and ERROR is explained in `explanations.toml`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.orchestrator.managed_process import end_with_parent
from tests.peers import explanations as explained
from tests.peers import pages
from tests.peers.programs import PATH, destination, fill, missing, number, version
from tests.peers.record import distil, load_all
from tests.peers.table import PEERS
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.peers.record import Record
    from tests.peers.table import Peer

FOLDER = Path(__file__).parents[2] / "docs" / "conformance" / "results"
#: Seconds for one run of the suite, more than twice what a busy host needs, and for it to end after
#: SIGINT.
LIMIT = 600.0
END_TIMEOUT = 20.0


class PeerRunError(Exception):
    """The suite did not complete on a peer."""


def conform(peer: Peer, folder: Path, *arguments: str, limit: float = LIMIT) -> dict[str, Any]:
    """Run the suite once, as a program of its own with a time limit.

    Args:
        peer: to test.
        folder: empty, for its files.
        arguments: further ones for ``emu conform``.
        limit: seconds.

    Returns:
        The document of ``--json``.

    Raises:
        PeerRunError: it took longer, or wrote no document.
    """
    out = folder / "out.json"
    there = destination(peer, folder)
    argv = [
        *(sys.executable, "-m", "emu.cli", "conform", peer.role),
        *("--socket", str(folder / "socket"), "--exec", fill(peer, folder)),
        *("--json", str(out), "--quiet", *arguments),
        *(("--device", peer.device) if peer.device else ()),
        *(("--scratch",) if peer.role == BACK_END else ()),
        *(("--destination", there) if there else ()),
    ]
    environment = os.environ | {"PATH": PATH}
    with subprocess.Popen(
        argv,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  there are no other threads here
    ) as process:
        try:
            _, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # SIGINT, so that it ends the peer, too.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_TIMEOUT)
            process.kill()
            raise PeerRunError(f"did not end within {limit:g} s") from None
    if not out.exists():
        raise PeerRunError(f"ended with status {process.returncode}: {err.strip()}")
    # Paths in the output of a peer differ between runs.
    whole: dict[str, Any] = json.loads(out.read_text().replace(str(folder), "DIR"))
    return whole


def examine(peer: Peer) -> Record:
    """Run the suite as often as the table has it.

    Raises:
        PeerRunError: a run did not complete.
    """
    documents, seconds = [], 0.0
    for _ in range(peer.runs):
        with tempfile.TemporaryDirectory(prefix="emu-peer-") as folder:
            begin = time.monotonic()
            documents.append(conform(peer, Path(folder)))
            seconds = max(seconds, time.monotonic() - begin)
    output = version(peer)
    return distil(
        documents,
        peer=peer.name,
        version=number(output),
        version_output=output,
        command=peer.command.replace("{queues}", str(peer.queues)),
        seconds=seconds,
    )


def examine_all(peers: Sequence[Peer], folder: Path) -> int:
    """Test each peer and save its record. Returns the number of peers that could not be tested."""
    failures = 0
    for peer in peers:
        why = missing(peer)
        try:
            if why:
                raise PeerRunError(f"is not tested: {why}")
            record = examine(peer)
        except (PeerRunError, ValueError) as error:
            failures += 1
            _print(f"{peer.name} {error}")
            continue
        for old in folder.glob(f"{peer.name}-{record.version}.json"):
            old.unlink()
        folder.mkdir(parents=True, exist_ok=True)
        record.save(folder)
        counts = ", ".join(f"{record.total(verdict)} {verdict}" for verdict in Verdict)
        _print(f"{record.peer} {record.version}: {counts}; {record.seconds:.0f} s")
    return failures


def judge(records: Sequence[Record], entries: Sequence[explained.Explanation]) -> int:
    """Report unexplained failures and stale explanations. Returns the number of the former."""
    count = 0
    for record in records:
        for case in explained.unexplained(record, entries):
            count += 1
            _print(f"{record.peer} {record.version}: {case} is not explained ({explained.FILE})")
    for line in explained.stale(records, entries):
        _print(f"warning: a stale explanation: {line}")
    return count


def main(arguments: Sequence[str]) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="tests.peers.results", description=__doc__)
    names = [peer.name for peer in PEERS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--write-only",
        action="store_true",
        help="run nothing; write the documents from the records",
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the documents")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; the peers are {', '.join(names)}")
    peers = [peer for peer in PEERS if not options.names or peer.name in options.names]
    entries = explained.load()
    failures = 0 if options.write_only else examine_all(peers, options.folder)
    records = load_all(options.folder)
    pages.write(options.folder, records, entries)
    failures += judge(records, entries)
    return 1 if failures and not options.write_only else 0


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
