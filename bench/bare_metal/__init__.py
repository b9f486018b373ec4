"""Guests without an operating system, for QEMU: how they are compiled (`bare_metal.h`).

QEMU loads such a guest with ``-bios qboot.rom -kernel``. It needs no disk and no time to boot.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

_FOLDER = Path(__file__).parent
_FLAGS = (
    *("-m64", "-O2", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables", "-fcf-protection=none"),
    *("-mno-red-zone", "-mgeneral-regs-only", "-Wall", "-Wextra", "-Werror", f"-I{_FOLDER}"),
    "-Wl,--omagic,-Ttext=0x100000,--build-id=none,--no-warn-rwx-segments",
)
BUILD_TIMEOUT = 60.0


def build(source: Path, folder: Path) -> Path:
    """Compile a guest with ``$CC``, or ``cc``.

    Args:
        source: its C file.
        folder: for the program.

    Raises:
        OSError: there is no such compiler.
        CalledProcessError: the compiler fails; it has the compiler's output.
        TimeoutExpired: the compiler does not end in `BUILD_TIMEOUT` seconds.
    """
    path = folder / f"{source.stem}.elf"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    subprocess.run(
        [*compiler, *_FLAGS, "-o", str(path), str(source)],
        check=True,
        stderr=subprocess.PIPE,
        timeout=BUILD_TIMEOUT,
    )
    return path
