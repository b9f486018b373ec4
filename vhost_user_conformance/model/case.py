"""Cases, and how they are registered.

A case is a function of the peer under test: it returns when the rule is kept, and raises a
`CaseEnd` otherwise. An `Area` registers it::

    rings = Area("rings", BACK_END, "Ring states")

    @rings.case(401, "GET_VRING_BASE stops the ring", needs=("REPLY_ACK",))
    def get_vring_base_stops(be: BackEnd) -> None: ...

Numbers never change and are never used twice: users refer to them.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from vhost_user_conformance.model.verdict import Severity

BACK_END = "back-end"
FRONT_END = "front-end"
#: Area of the first and the last cases of a run, which each working peer passes.
SANITY = "sanity"
#: Number of the first of its cases that come last in a run.
SANITY_LAST = 9900
_LETTERS = {BACK_END: "B", FRONT_END: "F"}
#: The number 1 before a plural, without the plural's last letter.
_ONE = re.compile(
    r"(?<![\d.,])(?<!- )(1 (?:arbitrary )?(?:region|byte|page|buffer|queue|descriptor))s\b"
)

#: Its argument depends on the role: a `BackEnd` or a `FrontEnd`.
Body = Callable[[Any], None]


class Case(NamedTuple):
    """One case.

    Attributes:
        id: ``VU-B-0401`` of a back-end's cases, ``VU-F-...`` of a front-end's.
        role: the role that has to keep the rule.
        area: of the protocol.
        rule: in one sentence.
        spec: section of the specification, or a commit.
        severity: how much it matters.
        needs: protocol features without which its verdict is UNSUPPORTED.
        device: class of device that it is about, or "" for any.
        works: it has the device serve requests, so that the class of device must be known.
        run: the function.
    """

    id: str
    role: str
    area: str
    rule: str
    spec: str
    severity: Severity
    needs: tuple[str, ...]
    device: str
    works: bool
    run: Body

    @property
    def is_last(self) -> bool:
        """Whether it is one of the last cases of a run."""
        return int(self.id[-4:]) >= SANITY_LAST


class Area:
    """Cases about one part of the protocol.

    Args:
        name: as in ``--only`` and the tables.
        role: `BACK_END` or `FRONT_END`.
        spec: section of the specification where a case does not name its own.
        needs: protocol features that all of its cases need.

    Attributes:
        cases: its cases, by id.
    """

    def __init__(self, name: str, role: str, spec: str, needs: tuple[str, ...] = ()) -> None:
        self.name = name
        self.role = role
        self.cases: list[Case] = []
        self._spec = spec
        self._needs = needs

    def case(
        self,
        number: int,
        rule: str,
        *,
        spec: str = "",
        severity: Severity = Severity.MUST,
        needs: tuple[str, ...] = (),
        device: str = "",
        works: bool = False,
    ) -> Callable[[Body], Body]:
        """Decorator: the function is the case with this number. See `Case`."""

        def register(run: Body) -> Body:
            case = Case(
                f"VU-{_LETTERS[self.role]}-{number:04}",
                self.role,
                self.name,
                rule,
                spec or self._spec,
                severity,
                (*self._needs, *needs),
                device,
                works or bool(device),
                run,
            )
            insort(self.cases, case, key=lambda each: each.id)
            return run

        return register

    def each(
        self, first: int, values: Iterable[Any], rule: str, **options: Any
    ) -> Callable[[Callable[[Any, Any], None]], Callable[[Any, Any], None]]:
        """Decorator: a case for each value, which is the function's second argument.

        Args:
            first: number of the first one; the others follow.
            values: of the second argument.
            rule: its ``{}`` is replaced by the value; a noun after the number 1 becomes singular.
            options: see `case`; ``severity`` may be a function of the value.
        """
        severity = options.pop("severity", Severity.MUST)

        def register(run: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
            for number, value in enumerate(values, first):
                level = severity if isinstance(severity, Severity) else severity(value)
                text = _sentence(rule.format(value))
                decorate = self.case(number, text, severity=level, **options)
                decorate(partial(_with, run, value))
            return run

        return register


def _sentence(text: str) -> str:
    """The text of a rule, after its value was put in: a capital, and no plural after a 1."""
    text = _ONE.sub(r"\1", text)
    return text[:1].upper() + text[1:]


def _with(run: Callable[[Any, Any], None], value: Any, peer: Any) -> None:
    run(peer, value)
