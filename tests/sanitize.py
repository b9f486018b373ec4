"""``make sanitize``: the C parts with AddressSanitizer and UndefinedBehaviorSanitizer, under tests.

The sources are copied and the extensions built there, so that the ones in use stay as they are. All
processes of the tests write what a sanitizer finds to files, as a test need not notice the end of
a program that it has started.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_COPIED = ("vhost_user", "vhost_user_conformance", "devices", "backends", "emu", "tests", "docs")
_FILES = ("pyproject.toml", "setup.py", "README.md")
#: The tests that use the C parts, and those that replay the corpus of `make fuzz`.
TESTS = ("tests/vhost_user", "tests/backends", "tests/emu/machine", "tests/fuzz", "tests/hostile")
_FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -g"
#: The interpreter frees little at its end, handles out of memory itself, and tests end processes
#: with SIGBUS. Freed memory is kept (256 MiB by default) to find its use, but tests assert that a
#: program does not grow.
_ASAN = "detect_leaks=0:allocator_may_return_null=1:handle_sigbus=0:quarantine_size_mb=8"
#: Each Python process opens the file of its reports when it starts, as it may enter a sandbox in
#: which it can open none. A high number, so that the tests' own descriptors keep theirs.
_SITE = """
import ctypes, fcntl, os, resource
_fd = os.open(f"{reports}/{{os.getpid()}}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
_most = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 1
_high = fcntl.fcntl(_fd, fcntl.F_DUPFD_CLOEXEC, min(900, _most))
os.close(_fd)
for _name in os.environ["LD_PRELOAD"].split():
    ctypes.CDLL(_name).__sanitizer_set_report_fd(ctypes.c_void_p(_high))
"""
#: Writes behind allocated memory in the C part, in a process like a back-end program's.
_MISTAKE = """
import ctypes
from backends.sandbox import confine
from vhost_user.native import log_marker
allocate = ctypes.CDLL(None).malloc
allocate.restype = ctypes.c_void_p
log, mark = allocate(16), log_marker()
confine([])
mark(log, 1000, 20 * 8 * 4096, 1)
"""
#: Of the compiled extensions: one that the sanitizer has instrumented calls it.
_MARK = b"__asan_"


def main() -> int:
    """Returns 1 if a sanitizer has found something, or a test fails."""
    where, extra = Path(sys.argv[1]).resolve(), sys.argv[2:]
    reports = where / "reports"
    _copy(where)
    reports.mkdir()
    _build(where)
    (where / "sitecustomize.py").write_text(_SITE.format(reports=reports))
    environment = _environment(where, reports)
    _prove(where, reports, environment)
    status = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *_pytest_arguments(extra)],
        cwd=where,
        env=environment,
        check=False,
    ).returncode
    found = _written(reports)
    for report in found:
        print(report.read_text(errors="replace"))  # noqa: T201
    print(f"{len(found)} reports of sanitizers, status {status} of the tests")  # noqa: T201
    return int(bool(found) or status != 0)


def _prove(where: Path, reports: Path, environment: dict[str, str]) -> None:
    """A mistake in the C part is reported, also by a process in the sandbox."""
    done = subprocess.run(
        [sys.executable, "-c", _MISTAKE],
        cwd=where,
        env=environment,
        capture_output=True,
        check=False,
    )
    found = _written(reports)
    assert len(found) == 1, done.stderr.decode(errors="replace")
    assert "heap-buffer-overflow" in found[0].read_text(errors="replace")
    found[0].unlink()


def _written(reports: Path) -> list[Path]:
    """The reports: each process has a file, nearly all are empty."""
    return sorted(file for file in reports.iterdir() if file.stat().st_size)


def _pytest_arguments(extra: list[str]) -> list[str]:
    """Options, and the usual tests if none is named."""
    named = any(part.startswith("tests") for part in extra)
    return [*extra, *(() if named else TESTS)]


def _copy(where: Path) -> None:
    shutil.rmtree(where, ignore_errors=True)
    for name in _COPIED:
        shutil.copytree(
            ROOT / name, where / name, ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.o")
        )
    for name in _FILES:
        shutil.copy(ROOT / name, where / name)


def _build(where: Path) -> None:
    flags = {"CFLAGS": _FLAGS, "LDFLAGS": "-fsanitize=address,undefined"}
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=where,
        env={**os.environ, **flags},
        check=True,
    )
    built = [*where.rglob("*.so")]
    assert built
    assert all(_MARK in file.read_bytes() for file in built), "not instrumented"


def _environment(where: Path, reports: Path) -> dict[str, str]:
    compiler = os.environ.get("CC", "cc")
    libraries = [
        subprocess.run(
            [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        "PYTHONPATH": str(where),
        # Each object of the interpreter is an allocation of its own, with its red zones.
        "PYTHONMALLOC": "malloc",
        "ASAN_OPTIONS": f"{_ASAN}:log_path={reports}/asan",
        "UBSAN_OPTIONS": f"print_stacktrace=1:log_path={reports}/ubsan",
        "TIMEOUT_SCALE": os.environ.get("TIMEOUT_SCALE", "4"),
    }


if __name__ == "__main__":
    sys.exit(main())
