"""A front-end that does nothing: it connects, asks for the features, and idles.

Run as a program with the socket's path, and the number of messages that it sends before it idles:
GET_FEATURES, then SET_OWNER. It ends with the connection, and with SIGTERM.
"""

from __future__ import annotations

import socket
import struct
import sys

GET_FEATURES, SET_OWNER = 1, 3
HEADER = struct.Struct("=III")


def main() -> None:
    """Connect, send, and read until the end of the connection."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(sys.argv[1])
        for number in (GET_FEATURES, SET_OWNER)[: int(sys.argv[2])]:
            sock.send(HEADER.pack(number, 1, 0))
        while sock.recv(4096):
            pass


if __name__ == "__main__":
    main()
