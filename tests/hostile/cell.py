"""A cell of the matrix, and what judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from tests.timeouts import SCALE

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds until an endpoint has to have answered, or closed the connection.
ANSWER = 10.0 * SCALE


class NotOk(Exception):
    """The cell is not ok; the text is the reason."""


class ClosedByPeer(Exception):
    """The endpoint has closed the hostile peer's connection, which is always permitted."""


class Cell(NamedTuple):
    """One input at one place.

    Attributes:
        group: the row of the table that it is counted in.
        place: where the input arrives.
        input: what it is.
        program: the key of the program that it is tried on, see `tests.hostile.programs`.
        attack: sends the input, and waits until the endpoint has dealt with it.
        sigterm: the program gets SIGTERM while the attack's connections are open.
    """

    group: str
    place: str
    input: str
    program: str
    attack: Callable[[Any], None]
    sigterm: bool = False

    @property
    def name(self) -> str:
        """Unique; ``--only`` selects by a part of it."""
        return f"{self.group}: {self.place}: {self.input}"


class Verdict(NamedTuple):
    """The result of a cell.

    Attributes:
        cell: the cell.
        complaint: why it is not ok; "" if it is.
        seconds: how long it took.
        delay: seconds of the neighbour's longest round; 0 where there is no neighbour.
    """

    cell: Cell
    complaint: str
    seconds: float
    delay: float
