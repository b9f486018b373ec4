"""Trace events of the protocol, at both ends of a connection.

As in QEMU, ``vhost_user_write`` and ``vhost_user_read`` are the front-end's. The back-end's are
``vhost_user_backend_read`` and ``vhost_user_backend_write``.
"""

from __future__ import annotations

from vhost_user.tracing import event

_MESSAGE = ("device", "ring", "message", "payload", "fds")

WRITE = event(
    "vhost_user_write",
    *_MESSAGE,
    help="The front-end sends a message; `fds` are the descriptors that go with it.",
)
READ = event("vhost_user_read", *_MESSAGE, help="The front-end receives a reply.")
BACKEND_READ = event("vhost_user_backend_read", *_MESSAGE, help="The back-end receives a message.")
BACKEND_WRITE = event("vhost_user_backend_write", *_MESSAGE, help="The back-end sends a reply.")
RING_STATE = event(
    "vhost_user_ring_state",
    *("device", "ring", "event", "state"),
    help="A ring is started, stopped, enabled or disabled, as this end of the connection sees it.",
)
TRACE_BEGIN = event(
    "trace_begin",
    *("patterns",),
    help="A command that was given `--trace-file` begins to append to it, whatever the patterns.",
)
TRACE_END = event("trace_end", help="The same command ends.")
