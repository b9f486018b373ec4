"""Text of a peer or a user as one line that may be printed."""

from __future__ import annotations


def one_line(text: str, most: int) -> str:
    """The text as one line.

    What does not print is escaped, as a terminal would obey it: escape sequences, characters that
    change the direction of the text, bytes that are no text. Of a longer text the beginning and the
    end are left.

    Args:
        text: may be anything.
        most: characters of the line, at the most.
    """
    # Before the rest, so that a text of many megabytes takes no time.
    return _cut(printable(" ".join(_cut(text, most).split())), most)


def printable(text: str) -> str:
    """The text, in which what does not print is escaped: see `one_line`."""
    if text.isprintable():
        return text
    return "".join(part if part.isprintable() else _escaped(part) for part in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _cut(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    end = most // 3
    return f"{text[: most - end - 5]} ... {text[-end:]}"
