"""Text of a peer in XML."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from vhost_user.xml_text import xml_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\n\u00e9 <&>", "a\tb\n\u00e9 <&>"),
        ("\x1b[31m\0", "\ufffd[31m\ufffd"),
        ("\udcff\uffff", "\ufffd\ufffd"),
    ],
)
def test_a_document_with_it_can_be_read(text: str, shown: str) -> None:
    node = ET.Element("a", name="")
    node.text = xml_text(text)
    assert ET.fromstring(ET.tostring(node, encoding="utf-8")).text == shown  # noqa: S314
