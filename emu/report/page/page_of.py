"""The page of a saved result, whichever command has written it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.json_input import JsonInputError, parse
from emu.report.page import conformance_page, migration_page, sweep_page

if TYPE_CHECKING:
    from emu.report.page.content import Page


def page_of(data: bytes) -> Page:
    """The page of what ``--json`` of `emu migrate`, `emu sweep` or `emu conform` has written.

    Raises:
        JsonInputError: it is none of these documents.
    """
    document = parse(data)
    for member, make in (
        ("points", sweep_page.page),
        ("runs", migration_page.page),
        ("offered", conformance_page.page),
    ):
        if isinstance(document, dict) and member in document:
            return make(document)
    raise JsonInputError("it is not a result of emu migrate, emu sweep or emu conform")
