"""A saved result is recognised by its members."""

from __future__ import annotations

import json

import pytest

from emu.json_input import JsonInputError
from emu.report.page.page_of import page_of
from tests.emu.report.page.samples import conformance, migrations, sweep_document


@pytest.mark.parametrize("document", [migrations(), sweep_document(), conformance()])
def test_every_result_has_its_page(document: dict[str, object]) -> None:
    """As written by --json."""
    assert page_of(json.dumps(document, indent=1).encode()).title


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"\xff", b'{"runs": []}', b'{"offered": 1}'])
def test_whatever_else_is_an_error(data: bytes) -> None:
    """And no exception of another kind."""
    with pytest.raises(JsonInputError):
        page_of(data)
