"""Device classes from outside of this package: a Python file, or an installed distribution."""

from __future__ import annotations

import inspect
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends.virtio_device import VirtioDevice
from vhost_user.plugin_file import PluginFileError, classes_of

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Entry points of this group name a subclass of `VirtioDevice`.
GROUP = "vhost_emu.backends"


class PluginError(ValueError):
    """There is no such device class; the text is for the user."""


def from_file(path: str, name: str | None = None) -> type[VirtioDevice]:
    """The device class of a Python file: the one with this name, or the only one.

    The file's directory is importable while the program runs.

    Raises:
        PluginError: the file is not there, cannot be imported, or has no such class.
    """
    # Not `Path.resolve`, for which links in a loop are a RuntimeError before Python 3.13.
    sys.path.insert(0, str(Path(os.path.realpath(path)).parent))
    try:
        found = {device.__name__: device for device in classes_of(path, VirtioDevice)}
    except PluginFileError as error:
        raise PluginError(f"{path}: {error}") from error
    if name is None and len(found) == 1:
        return next(iter(found.values()))
    if name is not None and name in found:
        return found[name]
    wanted = f"no device class {name}" if name else "not exactly one device class"
    raise PluginError(f"{path}: {wanted}; it has: {_listed(found)}")


def from_entry_point(name: str) -> type[VirtioDevice]:
    """The device class that an installed distribution registers in `GROUP` under this name.

    Raises:
        PluginError: there is no such entry point, or it is not a device class.
    """
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise PluginError(
            f"{name}: no such entry point in the group {GROUP}; installed: {_listed(points)}"
        )
    try:
        value = points[name].load()
    except Exception as error:  # the distribution's own code
        raise PluginError(f"{name}: {points[name].value} cannot be imported: {error}") from error
    if not isinstance(value, type) or not issubclass(value, VirtioDevice):
        raise PluginError(f"{name}: {points[name].value} is not a subclass of VirtioDevice")
    return value


def check(device: type[VirtioDevice], options: Mapping[str, str]) -> None:
    """Check that a device class serves requests, and takes these options.

    Raises:
        PluginError: it does not, or needs other options.
    """
    if device.serve is VirtioDevice.serve and device.process is VirtioDevice.process:
        raise PluginError(f"{device.__name__}: has neither serve() nor process()")
    try:
        inspect.signature(device).bind(None, None, None, None, **options)
    except TypeError as error:
        raise PluginError(f"{device.__name__}: {error}") from error


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)) or "none"
