"""A guest without an operating system that drives one virtio device of any class (`guest.c`).

QEMU loads it with ``-bios qboot.rom -kernel``, and it starts the rings at once: it needs no disk,
no driver and no time to boot.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("guest.c")
_FLAGS = (
    *("-m32", "-O2", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"),
    *("-mno-sse", "-Wall", "-Wextra", "-Werror"),
    # The Multiboot header has to be within the first 8 KiB of the file.
    "-Wl,--omagic,-Ttext=0x100000,--build-id=none,--no-warn-rwx-segments",
)


def build(folder: Path) -> Path:
    """Compile it.

    Args:
        folder: for the program.

    Raises:
        CalledProcessError: the compiler fails.
    """
    path = folder / "guest.elf"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run([*compiler, *_FLAGS, "-o", str(path), str(SOURCE)], check=True)
    return path
