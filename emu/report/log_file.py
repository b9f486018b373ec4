"""A file or pipe that is written as events come, without ever waiting for it.

A thread writes; the caller only hands over. A reader that is too slow, such as a pager that waits
for a key, costs entries, which are counted, and delays nothing. A file whose disk is full ends with
a whole entry.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import deque
from itertools import accumulate
from typing import TYPE_CHECKING

from emu.errors import EmuError
from vhost_user import output_file

if TYPE_CHECKING:
    from collections.abc import Callable
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
        fd: descriptor to write to, or what opens it in the thread; it is closed at the end.
        room: bytes that may wait for the thread.

    Attributes:
        dropped: how many entries there was no room for.
        failure: why nothing is written any more, or None.
    """

    def __init__(self, name: str, fd: int | Callable[[], int], room: int = ROOM) -> None:
        self.name = name
        self._room = room
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

        A FIFO can be opened only when its reader is there, which may come later, or never.

        Raises:
            EmuError: it cannot be opened, or is a link to a file.
        """
        try:
            if path.is_fifo():
                return cls(str(path), lambda: output_file.open_to_append(path, timeout=None))
            fd = output_file.open_to_append(path)
            if stat.S_ISREG(os.fstat(fd).st_mode):
                os.ftruncate(fd, 0)
        except OSError as error:
            raise EmuError(f"{path}: {error.strerror}") from error
        return cls(str(path), fd)

    def put(self, entry: bytes) -> bool:
        """Write an entry later; it is dropped as a whole if too much waits.

        Returns:
            Whether it will be written, if nothing fails until then.
        """
        with self._changed:
            if self.failure is not None or self._waiting + len(entry) > self._room:
                self.dropped += 1
                return False
            self._entries.append(entry)
            self._waiting += len(entry)
            if len(self._entries) == 1:
                self._changed.notify()
        return True

    def put_line(self, line: str) -> bool:
        """Write a line; as `put`."""
        return self.put(line.encode(errors="replace") + b"\n")

    @property
    def complaint(self) -> str:
        """Why the log is incomplete."""
        if self.failure is not None:
            return f"{self.name}: {self.failure.strerror}: the log is incomplete"
        return f"{self.name}: its reader is too slow: entries are missing"

    def close(self) -> str:
        """Write what waits, as far as its reader takes it; returns a line on what is missing."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(_PATIENCE)
        if self.failure is not None:
            return self.complaint
        missing = self.dropped + len(self._entries)
        if missing or self._thread.is_alive():
            lost = "1 entry is" if missing == 1 else f"{missing} entries are"
            return f"{self.name}: {lost} missing: its reader was too slow"
        return ""

    def _run(self) -> None:
        try:
            fd = self._fd if isinstance(self._fd, int) else self._fd()
            try:
                while entries := self._take():
                    _write_all(fd, entries)
            finally:
                os.close(fd)
        except OSError as error:  # a full disk, or a reader that has gone
            with self._changed:
                self.failure = error
                self._entries.clear()

    def _take(self) -> list[bytes]:
        """The next entries to write; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._entries or self._ending)
            taken: list[bytes] = []
            size = 0
            while self._entries and size < _WRITE:
                taken.append(self._entries.popleft())
                size += len(taken[-1])
            self._waiting -= size
            return taken


def _write_all(fd: int, entries: list[bytes]) -> None:
    """Write entries; where one does not fit, a regular file is cut to the whole ones before it."""
    data = b"".join(entries)
    written = 0
    try:
        while written < len(data):
            written += os.write(fd, data[written:] if written else data)
    except OSError:
        status = os.fstat(fd)
        whole = max(end for end in accumulate(map(len, entries), initial=0) if end <= written)
        if stat.S_ISREG(status.st_mode):
            os.ftruncate(fd, status.st_size - (written - whole))
        raise
