"""A back-end for two messages, GET_FEATURES and SET_OWNER, that serves front-ends in several ways.

    python -m tests.vhost_user_conformance.back_end.small_server MODE SOCKET

``once`` serves one front-end, and then runs on without listening. ``anew`` listens anew for each
front-end, and drops those that connected before that. ``exits`` ends with status 1 at a request
that it does not know, ``leaves`` at the end of the second connection; both serve one front-end
after the other. ``several`` is ``exits`` for several front-ends at the same time.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from vhost_user.codec import REPLY, VERSION
from vhost_user.readiness import readable
from vhost_user_conformance.peer.wire import HEADER

_GET_FEATURES, _SET_OWNER = 1, 3


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    if os.path.lexists(path):
        os.unlink(path)  # noqa: PTH108
    listener.bind(path)
    listener.listen(4)
    return listener


def _serve(sock: socket.socket, *, strict: bool) -> None:
    with sock:
        while head := sock.recv(HEADER.size, socket.MSG_WAITALL):
            number, _, size = HEADER.unpack(head)
            if size:
                sock.recv(size, socket.MSG_WAITALL)
            if number == _GET_FEATURES:
                sock.sendall(HEADER.pack(number, VERSION | REPLY, 8) + bytes(8))
            elif strict and number != _SET_OWNER:
                os.write(2, b"an unknown request\n")
                os._exit(1)


def main(mode: str, path: str) -> None:
    """Serve front-ends until SIGTERM."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    listener = _listen(path)
    served = 0
    while True:
        sock, _ = listener.accept()
        served += 1
        if mode == "several":
            threading.Thread(target=_serve, args=(sock,), kwargs={"strict": True}).start()
            continue
        _serve(sock, strict=mode == "exits")
        if mode == "leaves" and served > 1:
            os._exit(1)
        if mode == "once":
            listener.close()
            signal.pause()
        if mode == "anew":
            # A front-end that comes now is in the queue of a listener that is about to go.
            readable([listener], 0.05)
            listener.close()
            listener = _listen(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
