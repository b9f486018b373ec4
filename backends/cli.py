"""The entry points of the back-end programs.

A program's modules are imported when its standard streams are open, because some libraries keep
descriptors: a closed stream's number would be theirs (libffi 3.4.7 opens its own file).
"""

from __future__ import annotations

from importlib import import_module
from typing import NoReturn

from backends import console_script


def blk() -> NoReturn:
    """``vhost-emu-blk``."""
    _run("blk")


def net() -> NoReturn:
    """``vhost-emu-net``."""
    _run("net")


def rng() -> NoReturn:
    """``vhost-emu-rng``."""
    _run("rng")


def serve() -> NoReturn:
    """``vhost-emu-serve``."""
    _run("serve")


def _run(program: str) -> NoReturn:
    console_script.run(f"vhost-emu-{program}", lambda: import_module(f"backends.{program}").main())
