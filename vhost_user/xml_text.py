"""Text of a peer or a user in XML."""

from __future__ import annotations

import re

#: What is no character of XML 1.0 (section 2.2), not even escaped.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """The text with a replacement character for each one that XML cannot have.

    Writers of XML escape markup only; readers refuse a document with another character.
    """
    return _NOT_XML.sub("\N{REPLACEMENT CHARACTER}", text)
