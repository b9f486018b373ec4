"""Run a program of ours with a mistake in one of its modules.

    python -m tests.mutants.launch reply-without-flag backends.blk --socket-path /tmp/s ...

The files of the program do not change: the module is compiled from its source with one text
replaced when it is imported. ``unmutated`` in place of a name runs the unmodified program. Rings
are served by Python, in which the mistakes are, and by no compiled function.
"""

from __future__ import annotations

import runpy
import sys
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from typing import TYPE_CHECKING

from tests.mutants.catalogue import UNMUTATED, CatalogueError, Mutant, find

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType, ModuleType


class _MutatedLoader(SourceFileLoader):
    """Compiles the mutated source, and neither reads nor writes bytecode caches."""

    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType | None:
        source = self._mutant.apply(self.get_source(fullname) or "")
        return compile(source, self.get_filename(fullname), "exec", dont_inherit=True)


class _MutantFinder(MetaPathFinder):
    """Finds the mutant's module only."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        loader = _MutatedLoader(self._mutant, spec.origin)
        return spec_from_file_location(fullname, spec.origin, loader=loader)


def install(mutant: Mutant) -> None:
    """Import the mutant's module with its mistake from now on.

    Raises:
        CatalogueError: it has been imported already.
    """
    if mutant.module in sys.modules:
        raise CatalogueError(f"{mutant.module} was imported before its mistake could be made")
    sys.meta_path.insert(0, _MutantFinder(mutant))


def main(arguments: Sequence[str]) -> None:
    """Run the program as ``python -m`` would."""
    if len(arguments) < 2:
        sys.exit("usage: python -m tests.mutants.launch NAME MODULE [ARGUMENT ...]")
    name, program = arguments[:2]
    try:
        if name != UNMUTATED:
            install(find(name))
    except CatalogueError as error:
        sys.exit(f"tests.mutants.launch: {error}")
    import_module("vhost_user.virtqueue.batch").enabled = False  # type: ignore[attr-defined]
    sys.argv[1:] = arguments[2:]
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
