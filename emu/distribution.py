"""Whether the packages that are imported are those of the distribution vhost-emu.

`emu` is also the import name of another distribution on PyPI. pip does not refuse to install both:
their files end up in one directory, and the later one overwrites the earlier one's.
"""

from __future__ import annotations

from importlib import metadata

DISTRIBUTION = "vhost-emu"
#: What the wheel installs.
PACKAGES = ("emu", "vhost_user", "vhost_user_conformance", "devices", "backends")


def conflict() -> str:
    """One line on a distribution that has the name of one of `PACKAGES`, or nothing."""
    for name in PACKAGES:
        try:
            other = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        return (
            f"the distribution {other.name} {other.version} is installed beside {DISTRIBUTION}, "
            f"and both have a package {name}: install {DISTRIBUTION} in an environment of its own"
        )
    return ""
