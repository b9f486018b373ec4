"""A file or pipe that a tap writes to as it goes, without ever waiting for it.

A thread writes; the loop only hands over. A reader that is too slow, such as a pager that waits for
a key, costs lines, which are counted, and delays no message.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from typing import TYPE_CHECKING

from emu.errors import EmuError
from vhost_user import output_file

if TYPE_CHECKING:
    from pathlib import Path

#: Bytes that may wait for the thread.
ROOM = 16 << 20
#: Bytes that one write takes at most.
_WRITE = 1 << 18
#: Seconds that `close` waits for a reader.
_PATIENCE = 2.0


class LogFile:
    """Takes bytes, in order.

    Args:
        name: for errors.
        fd: descriptor to write to; it is closed at the end.

    Attributes:
        dropped: how many entries there was no room for.
        failure: why nothing is written any more, or None.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self.dropped = 0
        self.failure: OSError | None = None
        self._fd = fd
        self._entries: deque[bytes] = deque()
        self._waiting = 0
        self._ending = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"write {name}", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path) -> LogFile:
        """Write to a file, which is emptied, or to a FIFO or a character device.

        Raises:
            EmuError: it cannot be opened, or is a link to a file.
        """
        try:
            fd = output_file.open_to_append(path)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.ftruncate(fd, 0)
        except OSError as error:
            raise EmuError(f"{path}: {error.strerror}") from error
        return cls(str(path), fd)

    def put(self, entry: bytes) -> None:
        """Write an entry later; it is dropped as a whole if too much waits."""
        with self._changed:
            if self.failure is not None or self._waiting + len(entry) > ROOM:
                self.dropped += 1
                return
            self._entries.append(entry)
            self._waiting += len(entry)
            if len(self._entries) == 1:
                self._changed.notify()

    def put_line(self, line: str) -> None:
        """Write a line."""
        self.put(line.encode(errors="replace") + b"\n")

    def close(self) -> str:
        """Write what waits, as far as its reader takes it; returns a line on what is missing."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(_PATIENCE)
        if self.failure is not None:
            return f"{self.name}: {self.failure.strerror}: the log is incomplete"
        missing = self.dropped + len(self._entries)
        if missing or self._thread.is_alive():
            return f"{self.name}: {missing} entries are missing: its reader was too slow"
        return ""

    def _run(self) -> None:
        try:
            while data := self._take():
                left = memoryview(data)
                while left:
                    left = left[os.write(self._fd, left) :]
        except OSError as error:  # a full disk, or a reader that has gone
            with self._changed:
                self.failure = error
                self._entries.clear()
        finally:
            os.close(self._fd)

    def _take(self) -> bytes:
        """The next bytes to write; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._ending)
            taken: list[bytes] = []
            size = 0
            while self._entries and size < _WRITE:
                taken.append(self._entries.popleft())
                size += len(taken[-1])
            self._waiting -= size
            return b"".join(taken)
