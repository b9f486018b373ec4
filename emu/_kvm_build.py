"""Builds `emu._kvm` (cffi, API mode); called by setup.py on x86-64."""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).parent / "native"

ffibuilder = FFI()
ffibuilder.cdef((HERE / "kvm.h").read_text())
ffibuilder.set_source(
    "emu._kvm",
    '#include <stddef.h>\n#include <stdint.h>\n#include "kvm.h"',
    sources=["emu/native/kvm.c", "emu/native/guest.c"],
    depends=["emu/native/kvm.h"],
    include_dirs=["emu/native"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
