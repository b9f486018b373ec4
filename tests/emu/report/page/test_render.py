"""The page as HTML: complete, self-contained, and without anything that a peer could have made."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from emu.report.page import conformance_page, migration_page, render, sweep_page, tap_page
from tests.emu.report.page.samples import (
    HOSTILE,
    case,
    conformance,
    migrations,
    rolled_back,
    run,
    sweep_document,
    tap,
)
from tests.slow import all_but

if TYPE_CHECKING:
    from collections.abc import Callable

    from emu.report.page.content import Page

PAGES: dict[str, Callable[[], Page]] = {
    "migrate": lambda: migration_page.page(migrations()),
    "sweep": lambda: sweep_page.page(sweep_document()),
    "conform": lambda: conformance_page.page(conformance()),
    "tap": lambda: tap_page.page(tap()),
}
#: Bytes of a page at the most.
MOST = 5 << 20
_PNG = b"\x89PNG\r\n\x1a\n"


class Document(HTMLParser):
    """Collects elements, scripts and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.elements.append((tag, dict(attrs)))
        self._in = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        """An element ends."""
        del tag
        self._in = ""

    def handle_data(self, data: str) -> None:
        """Text."""
        if self._in == "script":
            self.scripts[-1] += data
        elif self._in != "style":
            self.text += data


def data_of(document: Document) -> Any:
    """What the scripts read."""
    return json.loads(document.scripts[0])


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_is_complete_and_loads_nothing(kind: str) -> None:
    """No element has an address of another file, and the policy forbids to load one."""
    page = PAGES[kind]()
    text = render.html(page)
    assert len(text.encode()) < MOST
    document = Document(text)
    assert page.sentence in document.text
    for tag, attributes in document.elements:
        assert tag not in ("img", "iframe", "object", "embed", "base")
        assert "src" not in attributes
        assert attributes.get("href", "data:,") == "data:,"
    policies = [
        attributes["content"]
        for tag, attributes in document.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1
    assert "default-src 'none'" in str(policies[0])
    assert "unsafe-eval" not in str(policies[0])
    assert [figure["name"] for figure in data_of(document)["figures"]] == [
        figure.name for figure in page.figures
    ]


def test_the_policy_permits_the_scripts_of_the_page_only() -> None:
    """By the digest of each."""
    document = Document(render.html(PAGES["migrate"]()))
    policy = next(
        str(attributes["content"])
        for _, attributes in document.elements
        if "http-equiv" in attributes
    )
    permitted = re.findall(r"'sha256-([^']+)'", policy)
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in document.scripts[1:]
    ]
    assert permitted == digests


@pytest.mark.parametrize(
    "page",
    [
        conformance_page.page(
            conformance(
                case(
                    1,
                    "FAIL",
                    seen=HOSTILE,
                    expected=HOSTILE,
                    rule=HOSTILE,
                    id=HOSTILE,
                    area=HOSTILE,
                ),
                peer={HOSTILE: HOSTILE},
                command=HOSTILE,
                not_sane=[HOSTILE],
            )
        ),
        migration_page.page(migrations(run(HOSTILE), rolled_back(HOSTILE))),
        tap_page.page(
            tap(
                pairs=[{"device": HOSTILE, "listen": HOSTILE, "connect": HOSTILE}],
                violations=[{"device": HOSTILE, "text": HOSTILE, "count": 1}],
            )
        ),
    ],
    ids=["conform", "migrate", "tap"],
)
def test_hostile_text_is_text(page: Any) -> None:
    """Text of a peer makes no element, no attribute and no script."""
    harmless = {tag for kind in PAGES.values() for tag, _ in Document(render.html(kind())).elements}
    text = render.html(page)
    document = Document(text)
    assert {tag for tag, _ in document.elements} <= harmless
    assert not any(
        name.startswith("on") for _, attributes in document.elements for name in attributes
    )
    assert "<script>window.hacked" in document.text, "it is shown as it is"
    assert "{{ 7*7 }}" in document.text
    assert len(document.scripts) == 3
    assert data_of(document)["figures"]
    assert render.picture(page).startswith(_PNG)


def test_a_file_name_that_is_not_utf_8_is_shown() -> None:
    """Bytes of the command line that are not text."""
    page = migration_page.page({**migrations(), "command": "emu \udcff"})
    assert "emu ?" in Document(render.html(page)).text


@pytest.mark.parametrize("kind", all_but({"migrate"}, PAGES))
def test_a_picture_needs_no_browser(kind: str) -> None:
    """It is a PNG of some size, and small enough to be sent."""
    picture = render.picture(PAGES[kind]())
    assert picture.startswith(_PNG)
    width, height = (int.from_bytes(picture[at : at + 4]) for at in (16, 20))
    assert width > 2000
    assert height > 400
    assert len(picture) < MOST
