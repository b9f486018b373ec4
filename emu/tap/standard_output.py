"""Standard output and standard error of a tap: what prints does not wait for who reads.

A terminal on which Ctrl-S was pressed, or a pager, does not read. If the loop waited for it, so
would each front-end that waits for a reply.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from emu.report.log_file import LogFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

#: Bytes that may wait for a stream; more text is dropped.
ROOM = 1 << 18


class StandardOutput(io.TextIOBase):
    """In place of a stream of the process; takes text, and never waits.

    Args:
        stream: has a descriptor.

    Raises:
        OSError: it has none (`io.UnsupportedOperation`), or none is left for the copy.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._file = LogFile("standard output", os.dup(stream.fileno()), ROOM)

    @property
    def encoding(self) -> str:  # type: ignore[override]  # as in io.TextIOWrapper
        """That of the stream."""
        return self._stream.encoding

    @property
    def errors(self) -> str:  # type: ignore[override]
        """What becomes of characters that the encoding lacks: as in the stream, but no error."""
        own = self._stream.errors
        return "backslashreplace" if own in (None, "strict") else own

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The stream's descriptor."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """It can be written to."""
        return True

    def write(self, text: str) -> int:
        """Write later."""
        data = text.encode(self.encoding, self.errors)
        if data:  # click writes nothing, to see whether a stream takes text
            self._file.put(data)
        return len(text)

    def close(self) -> None:
        """Write what waits, as far as it is read within a short time."""
        if not self.closed:
            self._file.close()
        super().close()


@contextmanager
def without_waiting() -> Iterator[None]:
    """Replace ``sys.stdout`` and ``sys.stderr`` in the block; without a descriptor they stay."""
    with ExitStack() as stack:
        for redirect, stream in ((redirect_stdout, sys.stdout), (redirect_stderr, sys.stderr)):
            stream.flush()
            try:
                made = StandardOutput(stream)
            except OSError:
                continue
            stack.callback(made.close)
            stack.enter_context(redirect(made))
        yield
