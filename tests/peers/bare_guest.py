"""A guest without an operating system that drives one virtio device of any class (`guest.c`).

It starts the rings at once: see `bench.bare_metal`.
"""

from __future__ import annotations

from pathlib import Path

from bench import bare_metal

SOURCE = Path(__file__).with_name("guest.c")


def build(folder: Path) -> Path:
    """Compile it.

    Args:
        folder: for the program.

    Raises:
        CalledProcessError: the compiler fails.
    """
    return bare_metal.build(SOURCE, folder)
