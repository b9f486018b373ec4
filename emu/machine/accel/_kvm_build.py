"""Builds `emu.machine.accel._kvm` (cffi, API mode); called by setup.py on x86-64."""

from pathlib import Path
from runpy import run_path

from cffi import FFI

HERE = Path(__file__).parent / "native"

#: See `vhost_user.extension`, which cannot be imported before it is installed.
SOURCES = run_path(str(Path(__file__).parents[3] / "vhost_user" / "extension.py"))["checksum"](HERE)

ffibuilder = FFI()
#: From linux/kvm.h.
ffibuilder.cdef("""
struct kvm_ioeventfd {
    uint64_t datamatch; uint64_t addr; uint32_t len; int32_t fd; uint32_t flags; ...;
};
#define KVM_IOEVENTFD_FLAG_DATAMATCH ...
#define KVM_IOEVENTFD_FLAG_PIO ...
""")
ffibuilder.cdef((HERE / "kvm.h").read_text())
ffibuilder.cdef("#define SOURCES ...")
ffibuilder.set_source(
    "emu.machine.accel._kvm",
    '#include <linux/kvm.h>\n#include <stddef.h>\n#include <stdint.h>\n#include "kvm.h"\n'
    f"#define SOURCES {SOURCES}u",
    sources=["emu/machine/accel/native/kvm.c", "emu/machine/accel/native/guest.c"],
    depends=["emu/machine/accel/native/kvm.h"],
    include_dirs=["emu/machine/accel/native"],
    extra_compile_args=["-O2", "-Wall", "-Wextra"],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
