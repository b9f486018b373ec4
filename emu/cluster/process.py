"""The process of a task: a module that ends in order when the worker does.

``python -m emu.cluster.process PID MODULE ARGUMENT...`` runs a module as a program.
"""

from __future__ import annotations

import os
import runpy
import sys

from emu.orchestrator.managed_process import end_with_parent


def main() -> None:
    """Run the module; SIGTERM, also at the end of the worker, ends it in order."""
    end_with_parent()
    parent, module, *arguments = sys.argv[1:]
    if os.getppid() != int(parent):
        sys.exit(1)  # the worker ended before the first line
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
