"""The destination of a migration: a VM as `emu attach` makes it, which awaits one of `emu attach`.

    python -m tests.vhost_user_conformance.front_end.incoming_vm blk SOCKET RINGS INCOMING

It has one device of this kind on the back-end at SOCKET, awaits a migration at the path INCOMING,
and runs the VM until a signal ends it.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from emu.config.vm_file import spec_to_json
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.vm_process.control import Control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emu.qmp.protocol import JsonObject

#: As of `emu attach`.
VCPUS, MEMORY = 2, 256 << 20


def _ignore(_name: str, _data: JsonObject) -> None:
    """No client waits for events."""


def main(arguments: Sequence[str]) -> None:
    """Await the VM, and run it."""
    kind, socket, rings, incoming = arguments
    spec = VmSpec(VCPUS, MEMORY, (DeviceGroup(kind, 1, int(rings)),))
    control = Control(_ignore)
    control.create(
        name="destination",
        spec=spec_to_json(spec),
        accel="soft",
        costs="native",
        load="light",
        backends={device.name: socket for device in spec.devices},
    )
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
    control.incoming(f"unix:{incoming}")
    signal.sigwait((signal.SIGTERM,))
    control.close()


if __name__ == "__main__":
    main(sys.argv[1:])
