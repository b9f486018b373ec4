"""Writes the table of strategies into ``docs/explanation/strategies.md``: ``make docs``."""

from __future__ import annotations

import sys
from pathlib import Path

from emu.strategies import registry

BEGIN = "<!-- generated from the strategies' classes by `make docs` -->"
END = "<!-- end -->"
DOCUMENT = "strategies.md"


def document(text: str) -> str:
    """The document with its table generated again.

    Raises:
        ValueError: the marks around the table are missing.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN!r} with an {END!r} after it")
    return f"{before}{BEGIN}\n{registry.table()}\n{END}{after}"


def main(directory: Path) -> None:
    """Generate the table of the document in this directory again."""
    path = directory / DOCUMENT
    path.write_text(document(path.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
