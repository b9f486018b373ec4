"""Classes from a Python file that the user names with ``--plugin FILE``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")


class PluginFileError(ValueError):
    """The file cannot be run; the text is the reason, without the file's name."""


def classes_of(path: str | Path, base: type[T]) -> list[type[T]]:
    """Run a Python file; the subclasses of ``base`` that it defines, in its order.

    Classes that the file imports are left out. The file's module is in `sys.modules` from then on,
    under a name that begins with ``vhost_emu_plugin_``.

    Raises:
        PluginFileError: it is not a Python file, or an exception is raised when it is run.
    """
    path = Path(path)
    name = f"vhost_emu_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PluginFileError("it is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it is run: dataclasses, among others, look it up
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own code
        del sys.modules[name]
        raise PluginFileError(f"{type(error).__name__}: {error}") from error
    defined = (
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, base) and value.__module__ == name
    )
    return list(dict.fromkeys(defined))  # once each, whatever other names they have
