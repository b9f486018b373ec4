"""A front-end that truncates its guest memory, and restores its size, while its ring is served.

Usage: python -m tests.vhost_user_conformance.front_end.truncating_front_end SOCKET
"""

from __future__ import annotations

import os
import signal
import sys

from tests.backends.rig import Rig
from vhost_user.errors import VhostUserError
from vhost_user.features import ProtocolFeature
from vhost_user.frontend import FrontendConnection

#: How often it truncates its memory before it waits for its end.
TIMES = 2000


def main() -> None:
    """Connect, start a ring, and kick it between two truncations."""
    connection = FrontendConnection.connect(sys.argv[1], name="truncating")
    rig = Rig(connection, 1, protocol_features=ProtocolFeature.REPLY_ACK)
    rig.start()
    ring = rig.rings[0]
    gpa, _ = rig.alloc(16)
    size = os.fstat(rig.low.fd).st_size
    for _ in range(TIMES):
        ring.driver.reset()
        ring.driver.add([(gpa, 16)], [(gpa, 16)])
        ring.driver.publish()
        ring.kick()
        os.ftruncate(rig.low.fd, 0)
        os.ftruncate(rig.low.fd, size)
    while True:
        signal.pause()


if __name__ == "__main__":
    try:
        main()
    except (VhostUserError, OSError):
        sys.exit(0)
