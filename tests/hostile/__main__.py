"""``make hostile``: runs the matrix, and prints it as a table."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.hostile import table
from tests.hostile.programs import all_cells
from tests.hostile.runner import Runner
from tests.timeouts import SCALE

if TYPE_CHECKING:
    from tests.hostile.cell import Verdict

#: Seconds that a round of the neighbour may take, without the time that it waits for a processor.
NEIGHBOUR_LIMIT = 0.1 * SCALE


def main() -> int:
    """Returns 1 if a cell is not ok."""
    parser = argparse.ArgumentParser(prog="make hostile", description=__doc__)
    parser.add_argument("--only", default="", help="run the cells whose names have all these words")
    parser.add_argument("--json", type=Path, help="write the verdicts to this file")
    parser.add_argument("--list", action="store_true", help="print the names of the cells")
    options = parser.parse_args()
    words = options.only.split()
    cells = [cell for cell in all_cells() if all(word in cell.name for word in words)]
    if options.list:
        print(*(cell.name for cell in cells), sep="\n")  # noqa: T201
        return 0
    listed = frozenset(cells)
    done = 0

    def report(verdict: Verdict) -> None:
        nonlocal done
        done += verdict.cell in listed  # the end of a program is in the table only
        if verdict.complaint:
            print(f"NOT OK  {verdict.cell.name}: {verdict.complaint}", flush=True)  # noqa: T201
        elif not done % 100:
            print(f"{done} of {len(cells)} cells", file=sys.stderr, flush=True)  # noqa: T201

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    runner = Runner(NEIGHBOUR_LIMIT, report)
    try:
        verdicts = runner.run(cells)
    finally:
        runner.close()
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(table.document(verdicts), indent=1) + "\n")
    table.show(verdicts, sys.stdout)
    return int(any(verdict.complaint for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
