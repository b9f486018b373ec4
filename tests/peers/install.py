"""Installs missing programs that the tests use, as Debian packages.

``python -m tests.peers.install``, as root or with sudo. A failure is one line and
status 1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests.peers.table import BROWSER_PACKAGES, GUEST_PACKAGES, KERNEL_PACKAGE, PEERS

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds, enough for a slow mirror.
LIMIT = 900.0


class InstallError(Exception):
    """Programs cannot be installed; the text is the reason, in one line."""


def wanted() -> list[str]:
    """All packages, without duplicates."""
    named = [package for peer in PEERS for package in peer.packages.split()]
    return list(
        dict.fromkeys([*named, *GUEST_PACKAGES.values(), *BROWSER_PACKAGES, KERNEL_PACKAGE])
    )


def missing(packages: list[str]) -> list[str]:
    """The packages that are not installed.

    Raises:
        InstallError: the system is not Debian.
    """
    if shutil.which("dpkg-query") is None or shutil.which("apt-get") is None:
        raise InstallError(f"the system is not Debian: install {' '.join(packages)} in another way")
    return [package for package in packages if not _installed(package)]


def _installed(package: str) -> bool:
    argv = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    status = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    return status == "installed"


def install(packages: list[str]) -> None:
    """Install them.

    Raises:
        InstallError: apt-get failed.
    """
    before = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if before and shutil.which("sudo") is None:
        raise InstallError(f"as root: apt-get install {' '.join(packages)}")
    install_by(before, packages)


def install_by(before: Sequence[str], packages: Sequence[str], limit: float = LIMIT) -> None:
    """Install them by apt-get, behind the words that begin its command line.

    Raises:
        InstallError: apt-get failed.
    """
    apt = [*before, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]
    run([*apt, "update"], limit)
    run([*apt, "install", "--yes", "--no-install-recommends", *packages], limit)


def run(argv: Sequence[str], limit: float) -> None:
    """Run a command, for at most so many seconds.

    Raises:
        InstallError: it failed; the text has the last line of its output.
    """
    try:
        done = subprocess.run(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=limit,
            check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InstallError(f"{' '.join(argv)}: {error}") from None
    if done.returncode:
        last = (done.stdout.strip().splitlines() or [f"status {done.returncode}"])[-1]
        raise InstallError(f"{' '.join(argv)}: {last}")


def main() -> int:
    """Entry point. Returns the exit status."""
    try:
        packages = missing(wanted())
        if packages:
            sys.stdout.write(f"installing {' '.join(packages)}\n")
            install(packages)
    except InstallError as error:
        sys.stderr.write(f"peers-install: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
