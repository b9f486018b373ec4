"""One harness under atheris; the arguments after its name are libFuzzer's."""

from __future__ import annotations

import importlib
import sys

import atheris

#: What is instrumented, so that new paths through it are found.
_PACKAGES = ["vhost_user", "backends", "emu.migration", "emu.qmp", "emu.machine.ram"]


def main() -> None:
    """Does not return: libFuzzer ends the process."""
    name, arguments = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=_PACKAGES):
        harness = importlib.import_module(f"tests.fuzz.harnesses.{name}")
    atheris.Setup([sys.argv[0], *arguments], harness.one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
