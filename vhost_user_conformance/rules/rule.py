"""A rule of the matrix: a sentence, its source, and what covers it for each role."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from vhost_user_conformance.model.case import BACK_END, FRONT_END

if TYPE_CHECKING:
    from collections.abc import Iterable

_RANGE = re.compile(r"(\d{4})(?:\.\.(\d{4}))?")
_PREFIX = {BACK_END: "VU-B-", FRONT_END: "VU-F-"}


class RuleError(ValueError):
    """A rule is invalid; the text has its location."""


class Covered(NamedTuple):
    """Cases that check the rule: numbers and ranges of them, as in ``"0401..0408 0411"``."""

    numbers: str

    def ranges(self) -> list[tuple[int, int]]:
        """First and last number of each range.

        Raises:
            RuleError: a word is not a range.
        """
        found = []
        for word in self.numbers.split():
            match = _RANGE.fullmatch(word)
            if match is None:
                raise RuleError(f"{word!r} is not a case number or a range of them")
            first, last = int(match[1]), int(match[2] or match[1])
            if first > last:
                raise RuleError(f"{word!r} is not a range")
            found.append((first, last))
        return found

    def cases(self, role: str, known: Iterable[str]) -> list[str]:
        """Ids of the cases of this role, out of all that are known.

        Raises:
            RuleError: no case is in one of the ranges.
        """
        numbers = {int(each.removeprefix(_PREFIX[role])): each for each in known}
        found = []
        for first, last in self.ranges():
            named = [each for number, each in numbers.items() if first <= number <= last]
            if not named:
                raise RuleError(f"no case of the {role} is in {first:04}..{last:04}")
            found += named
        return found

    def shown(self, role: str) -> str:
        """As the matrix shows it."""
        words = self.numbers.split()
        return " ".join(f"{_PREFIX[role][3]}-{word}" for word in words)


class NotFromOutside(NamedTuple):
    """The role is bound by the rule, but no case can check it; the reason."""

    why: str


Cover = Covered | NotFromOutside


class Rule(NamedTuple):
    """A rule.

    Attributes:
        id: chapter and number; it never changes.
        text: in one sentence.
        source: section of the specification, a commit, or a program that behaves so.
        back: what covers it for back-ends; None if they are not bound by it.
        front: the same for front-ends.
    """

    id: str
    text: str
    source: str
    back: Cover | None = None
    front: Cover | None = None

    def cover(self, role: str) -> Cover | None:
        """What covers it for this role."""
        return self.back if role == BACK_END else self.front


class Chapter:
    """Rules about one part of the protocol.

    Args:
        name: beginning of its rules' ids.
        title: of its table.
        source: of rules that do not name their own.
    """

    def __init__(self, name: str, title: str, source: str) -> None:
        self.name = name
        self.title = title
        self.rules: list[Rule] = []
        self._source = source

    def rule(
        self,
        number: int,
        text: str,
        *,
        back: str | NotFromOutside = "",
        front: str | NotFromOutside = "",
        source: str = "",
    ) -> None:
        """Add a rule; cases are written as in `Covered`, and "" is a role that is not bound."""
        self.rules.append(
            Rule(
                f"{self.name}-{number:02}",
                text,
                source or self._source,
                Covered(back) if isinstance(back, str) and back else back or None,
                Covered(front) if isinstance(front, str) and front else front or None,
            )
        )
