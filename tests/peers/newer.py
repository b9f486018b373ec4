"""Runs the suite on the peers of newer Debian releases, each in a chroot: ``make peers-newer``.

``python -m tests.peers.newer [--chroots DIR] [--release NAME] [NAME...]``, as root, with
debootstrap. A chroot is made once, of about 1 GiB, and is used again. A release or a peer that
cannot be had is one line and status 1; the others are tested.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.peers import explanations as explained
from tests.peers import pages
from tests.peers.install import InstallError, install_by, run
from tests.peers.record import load_all
from tests.peers.results import FOLDER, examine_all, judge
from tests.peers.table import NEWER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.peers.table import Peer

ENTER = Path(__file__).with_name("enter-chroot")
MIRROR = "http://deb.debian.org/debian"
CHROOTS = Path("/var/tmp/vhost-emu-chroots")
#: Seconds for a chroot to be made, and for packages to be installed, enough for a slow mirror.
LIMIT = 1800.0


class Release(NamedTuple):
    """A release of Debian.

    Attributes:
        name: of its chroot, and in options.
        suite: in the archive.
    """

    name: str
    suite: str

    def root(self, chroots: Path) -> Path:
        """Its chroot."""
        return chroots / self.name


RELEASES = (Release("debian-13", "trixie"), Release("testing", "testing"))


def make(release: Release, chroots: Path) -> Path:
    """Make the chroot, if there is none, and install all packages in it.

    Raises:
        InstallError: it cannot be had.
    """
    root = release.root(chroots)
    done = root / "peers-installed"
    packages = sorted({package for peer in NEWER for package in peer.packages.split()})
    if done.exists() and done.read_text().split() == packages:
        return root
    if not (root / "usr/bin/apt-get").exists():
        chroots.mkdir(mode=0o755, parents=True, exist_ok=True)
        run(["debootstrap", "--variant=minbase", release.suite, str(root), MIRROR], LIMIT)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    # A mirror's list of a release that still changes is valid for some days only; it is signed.
    (root / "etc/apt/apt.conf.d/99-mirror").write_text('Acquire::Check-Valid-Until "false";\n')
    install_by([str(ENTER), str(root)], packages, LIMIT)
    done.write_text(" ".join(packages) + "\n")
    return root


def inside(peer: Peer, root: Path) -> Peer:
    """The peer as it is started in this chroot."""
    return peer._replace(
        program=str(ENTER),
        enter=f"{ENTER} {root} ",
        version=(str(ENTER), str(root), *peer.version),
    )


def main(arguments: Sequence[str]) -> int:
    """Entry point; the exit status."""
    parser = argparse.ArgumentParser(prog="tests.peers.newer", description=__doc__)
    names = [peer.name for peer in NEWER]
    releases = [release.name for release in RELEASES]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--release", choices=releases, help="this one only")
    parser.add_argument("--chroots", type=Path, default=CHROOTS, help="where they are made")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the documents")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"unknown {', '.join(sorted(unknown))}; the peers are {', '.join(names)}")
    if os.geteuid() != 0:
        parser.error("a chroot is made and entered by root")
    failures = 0
    for release in RELEASES:
        if options.release not in (None, release.name):
            continue
        try:
            root = make(release, options.chroots.absolute())
        except (InstallError, OSError) as error:
            sys.stdout.write(f"{release.name} is not tested: {error}\n")
            failures += 1
            continue
        chosen = [peer for peer in NEWER if not options.names or peer.name in options.names]
        failures += examine_all([inside(peer, root) for peer in chosen], options.folder)
    entries = explained.load()
    records = load_all(options.folder)
    pages.write(options.folder, records, entries)
    failures += judge(records, entries)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
