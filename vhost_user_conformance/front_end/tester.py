"""The front-end under test, as cases use it: recordings of sessions with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user_conformance.front_end.acts import START
from vhost_user_conformance.front_end.script import PLAIN, Script
from vhost_user_conformance.model.verdict import Failed
from vhost_user_conformance.peer.message_text import payload_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import Reaction
    from vhost_user_conformance.model.device_class import DeviceClass


class FrontEnd:
    """The front-end under test.

    A session is played once for each script, since starting a VM takes time. All cases with the
    same script share the recording.

    Args:
        row: device class of the suite's back-end.
        timeout: seconds for each answer.
        play: starts the front-end and plays a session.

    Attributes:
        device_class: that row.
        shown: transcript of the session that a case read last.
    """

    def __init__(
        self, row: DeviceClass, timeout: float, play: Callable[[Script], Recording]
    ) -> None:
        self.device_class = row
        self.timeout = timeout
        self.shown: list[str] = []
        self._play = play
        self._played: dict[Script, Recording] = {}

    def offer(self, row: DeviceClass) -> None:
        """Offer what this row has from now on; sessions of before are forgotten."""
        self.device_class = row
        self._played.clear()

    def keep(self, plain: Recording) -> None:
        """Use this recording of the plain session."""
        self._played[PLAIN] = plain

    def plain(self) -> Recording:
        """The session with a correct back-end."""
        return self.session(PLAIN)

    def session(self, script: Script) -> Recording:
        """The recording of a session by this script.

        Raises:
            Failed: the front-end crashed in it.
        """
        if script not in self._played:
            self._played[script] = self._play(script)
        recording = self._played[script]
        self.shown = recording.transcript
        if recording.crashed and script is not PLAIN:
            raise Failed("the front-end to continue", f"it ended {recording.ended}")
        return recording

    def reacting(self, name: str, number: int, reaction: Reaction) -> Recording:
        """A session in which ``reaction`` replies to one message."""
        return self.session(Script(name, (START,), reactions=((number, reaction),)))


def all_of(
    messages: Iterable[Received], valid: Callable[[Received], object], expected: str
) -> None:
    """Check each message.

    Raises:
        Failed: one is not valid; the error has its text.
    """
    for each in messages:
        if not valid(each):
            seen = f"{each}: flags {each.flags:#x}, {len(each.payload)} bytes, {len(each.fds)} fds"
            shown = payload_text(each.name, each.payload)
            raise Failed(expected, f"{seen}: {shown}" if shown else seen, line=each.line)
