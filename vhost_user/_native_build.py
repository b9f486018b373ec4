"""Builds `vhost_user._native` (cffi, API mode); called by setup.py."""

from pathlib import Path
from runpy import run_path

from cffi import FFI

HERE = Path(__file__).parent / "native"

#: See `vhost_user.extension`, which cannot be imported before it is installed.
SOURCES = run_path(str(Path(__file__).parent / "extension.py"))["checksum"](HERE)

NAMES = ("native", "notify", "mapping", "sha256", "uffd", "queue", "disk", "nic", "relay")

ffibuilder = FFI()
ffibuilder.cdef((HERE / "native.h").read_text())
ffibuilder.cdef("#define SOURCES ...")
ffibuilder.set_source(
    "vhost_user._native",
    f'#include "native.h"\n#define SOURCES {SOURCES}u',
    sources=[f"vhost_user/native/{name}.c" for name in NAMES],
    depends=[f"vhost_user/native/{name}.h" for name in ("native", "queue", "clock")],
    include_dirs=["vhost_user/native"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
