"""What the connections of both ends have in common: a channel, and how it is read and closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

from vhost_user.channel import READ_SIZE, Channel

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from vhost_user.channel import Read
    from vhost_user.errors import ProtocolError

#: Reads of one `Connection.reads` at most, so that a peer that never stops does not keep a thread.
MAX_READS = 64


class Connection(ABC):
    """A connected socket of one device; a context manager that closes it.

    Args:
        sock: a connected unix stream socket; owned by the connection from now on.
        name: name of the device, for errors and tables.
        peer_fault: the error to raise when the peer breaks the protocol.

    Attributes:
        name: name of the device.
    """

    def __init__(self, sock: socket.socket, name: str, peer_fault: type[ProtocolError]) -> None:
        self.name = name
        self._channel = Channel(sock, name, peer_fault)

    @property
    def wants_write(self) -> bool:
        """Whether `flush` has bytes left to send."""
        return self._channel.wants_write

    def fileno(self) -> int:
        """The socket's descriptor, for a selector."""
        return self._channel.fileno()

    def flush(self) -> bool:
        """Send as much as is possible without blocking; True when nothing is left to send.

        Raises:
            Disconnected: the peer has closed the connection.
        """
        return self._channel.flush()

    def reads(self) -> Iterator[Read]:
        """What has arrived, `READ_SIZE` bytes or a little more; never blocks.

        Raises:
            Disconnected: the peer has closed the connection, and everything has been read.
        """
        taken = 0
        for _ in range(MAX_READS):
            read = self._channel.read_now()
            if read is None:
                return
            yield read
            taken += len(read.data)
            # The kernel ends a read early where descriptors are attached, or when it is full.
            if taken >= READ_SIZE or not read.fds:
                return

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
