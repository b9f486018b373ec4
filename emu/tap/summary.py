"""What a tap has seen, in bounded memory: the document that its report is made from."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from emu.json_input import Each, JsonInputError, Map, Maybe, Members, check, parse
from emu.report.results import host_facts
from emu.tap.connection import Opened
from emu.tap.message import Message
from emu.tap.transition_table import object_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from emu.tap.proxy import Pair
    from emu.tap.reader import Record
    from emu.tap.transitions import Transition

SCHEMA = 1
#: Stops and starts that are kept: the last ones.
MAX_TRANSITIONS = 40
#: Violations that are told apart; the others are one.
MAX_VIOLATIONS = 200
_OTHERS = ("other devices or rules", "not told apart here: see the logs")
#: Names of messages that are told apart, many more than are known; the others are one.
MAX_NAMES = 500
_OTHER_MESSAGES = "other messages"
_HEAD = Members(
    {"pairs": Each(Members({"device": str, "listen": str, "connect": str}))},
    {"host": Map(object)},
)
_MESSAGE = Members(
    {"device": str, "name": str}, {"latency_ns": Maybe(int), "violations": Each(str)}
)


class Summary:
    """Counts messages, replies and violations, and keeps stops and starts; a sink of a `Reader`."""

    def __init__(self) -> None:
        self._connections = 0
        self._transitions = 0
        self._kept: deque[dict[str, Any]] = deque(maxlen=MAX_TRANSITIONS)
        self._requests: Counter[str] = Counter()
        self._replies: Counter[str] = Counter()
        self._total_ns: Counter[str] = Counter()
        self._most_ns: dict[str, int] = {}
        self._violations: Counter[tuple[str, str]] = Counter()

    def take(self, record: Record) -> None:
        """Count a record."""
        if isinstance(record, Opened):
            self._connections += 1
        elif isinstance(record, Message):
            if record.is_reply:
                self._reply(record.full_name, record.latency)
            else:
                self._request(record.full_name)
            self._flag(record.device, record.violations)

    def add(self, transition: Transition) -> None:
        """Keep a stop or a start."""
        self._keep(object_of(transition))

    def read(self, line: dict[str, Any]) -> None:
        """Count a line of a JSON log.

        Raises:
            JsonInputError: it has another shape.
        """
        event = line.get("event")
        if event == "connected":
            self._connections += 1
        elif event in ("stop", "start"):
            self._keep(line)
        elif event in ("request", "reply"):
            message = check(line, _MESSAGE, event)
            if event == "reply":
                self._reply(message["name"], message.get("latency_ns"))
            else:
                self._request(message["name"])
            self._flag(message["device"], message.get("violations", ()))

    def document(self, head: Mapping[str, Any]) -> dict[str, Any]:
        """All of it.

        Args:
            head: what was tapped, and where; see `described`.
        """
        return {
            "schema": SCHEMA,
            **head,
            "connections": self._connections,
            "requests": [
                {
                    "name": name,
                    "count": number,
                    "replies": self._replies[name],
                    "mean_ns": self._total_ns[name] // max(self._replies[name], 1),
                    "most_ns": self._most_ns.get(name, 0),
                }
                for name, number in self._requests.most_common()
            ],
            "violations": [
                {"device": device, "text": text, "count": number}
                for (device, text), number in self._violations.items()
            ],
            "transitions": list(self._kept),
            "earlier_transitions": self._transitions - len(self._kept),
        }

    def _keep(self, transition: dict[str, Any]) -> None:
        self._transitions += 1
        self._kept.append(transition)

    def _request(self, name: str) -> None:
        known = name in self._requests or len(self._requests) < MAX_NAMES
        self._requests[name if known else _OTHER_MESSAGES] += 1

    def _reply(self, name: str, latency: int | None) -> None:
        if latency is not None:
            name = name if name in self._requests else _OTHER_MESSAGES
            self._replies[name] += 1
            self._total_ns[name] += latency
            self._most_ns[name] = max(latency, self._most_ns.get(name, 0))

    def _flag(self, device: str, violations: Iterable[str]) -> None:
        for violation in violations:
            key = (device, violation)
            known = key in self._violations or len(self._violations) < MAX_VIOLATIONS
            self._violations[key if known else _OTHERS] += 1


def described(pairs: Iterable[Pair]) -> dict[str, Any]:
    """What is tapped, and where: ``host``, and ``pairs`` with their names and sockets."""
    return {
        "host": host_facts(),
        "pairs": [
            {"device": pair.name, "listen": pair.listen, "connect": pair.connect} for pair in pairs
        ],
    }


def of_log(data: bytes) -> dict[str, Any]:
    """The document of a log that ``emu tap --json`` has written, as far as its lines are complete.

    Raises:
        JsonInputError: it is no such log; the text has the number of the line.
    """
    summary = Summary()
    head: dict[str, Any] = {"pairs": []}
    for number, line in enumerate(_whole_lines(data), 1):
        try:
            value = parse(line)
            if not isinstance(value, dict):
                raise JsonInputError("it is not an object")
            if value.get("event") == "tap":
                head = check(value, _HEAD)
            summary.read(value)
        except JsonInputError as error:
            raise JsonInputError(f"line {number}: {error}") from None
    return summary.document(head)


def _whole_lines(data: bytes) -> list[bytes]:
    """The lines; without the end of the last one, if the tap was killed while it wrote it."""
    lines = data.splitlines()
    if len(lines) > 1 and not data.endswith(b"\n"):
        try:
            parse(lines[-1])
        except JsonInputError:
            lines.pop()
    return lines
