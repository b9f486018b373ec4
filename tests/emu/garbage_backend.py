"""A back-end that listens correctly, and sends an invalid reply."""

from __future__ import annotations

import os
import socket
import struct
import sys
import threading

#: The header of a reply to GET_FEATURES, with a payload of the wrong size.
GARBAGE = struct.pack("<III", 1, 5, 3) + b"?!?"


def serve(path: str) -> None:
    """Send the invalid reply to the first message on every connection."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def answer() -> None:
        while True:
            peer, _ = listener.accept()
            peer.recv(4096)
            peer.sendall(GARBAGE)

    threading.Thread(target=answer, daemon=True).start()


def main() -> None:
    """Entry point; handles only ``--socket-path`` and ``--ready-fd``."""
    options = list(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    for name, value in options:
        if name == "--socket-path":
            serve(value)
    ready = int(dict(options)["--ready-fd"])
    os.write(ready, b"x")
    os.close(ready)
    threading.Event().wait()


if __name__ == "__main__":
    main()
