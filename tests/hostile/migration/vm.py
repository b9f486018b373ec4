"""A VM's process with the back-ends of its devices, as `emu run` and `emu migrate` have them."""

from __future__ import annotations

import os
import socket
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from emu.config.vm_file import spec_to_json
from emu.config.vm_spec import DeviceGroup, VmSpec
from tests.hostile.cell import NotOk
from tests.hostile.process import Process
from tests.hostile.vm.qmp import QmpClient

if TYPE_CHECKING:
    from pathlib import Path

SPEC = VmSpec(2, 64 << 20, (DeviceGroup("net", 1, 2), DeviceGroup("blk", 1, 1)))
#: Bytes of its disk's image.
IMAGE_BYTES = 16 << 20
#: Seconds that a step of a migration may take, or the other side may be silent.
DEADLINE = 2.0


class VmProcess:
    """The process; it has no VM until it is told to create one.

    Args:
        folder: of its files.
        name: of this side.

    Attributes:
        process: of the VM.
        back_ends: of its devices.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._owned = ExitStack()
        self._name = name
        self._sockets = {d.name: str(folder / f"{name}-{d.name}.sock") for d in SPEC.devices}
        image = folder / f"{name}.img"
        image.touch()
        os.truncate(image, IMAGE_BYTES)
        options = {"net0": ("--num-queues", "2"), "blk0": ("--blk-file", str(image))}
        self.back_ends = []
        for device in SPEC.devices:
            socket_path = self._sockets[device.name]
            argv = ("-m", f"backends.{device.device_class}", "--socket-path", socket_path)
            self.back_ends.append(
                Process([sys.executable, *argv, *options[device.name]], folder, ready=True)
            )
            self._owned.callback(self.back_ends[-1].kill)
        ours, theirs = socket.socketpair()
        fd = theirs.fileno()
        argv = ("-m", "emu.vm_process", "--monitor-fd", str(fd))
        with theirs:
            self.process = Process([sys.executable, *argv], folder, pass_fds=(fd,))
        self._owned.callback(self.process.kill)
        self.qmp = QmpClient(ours)
        self._owned.callback(self.qmp.close)
        self.ask("qmp_capabilities")
        self.ask("migrate-set-parameters", parameters={"deadline": DEADLINE})

    def ask(self, command: str, /, **arguments: object) -> Any:
        """Execute a command that has to succeed; its result."""
        answer = self.qmp.ask(command, **arguments)
        if "error" in answer:
            raise NotOk(f"{command}: {answer['error']['desc']}")
        return answer["return"]

    def create(self) -> None:
        """Configure the VM."""
        self.ask(
            "x-create",
            name=self._name,
            spec=spec_to_json(SPEC),
            accel="soft",
            costs="native",
            load="light",
            backends=self._sockets,
        )

    def complaint(self) -> str:
        """What is wrong with the programs after a cell, or ""."""
        for program in (self.process, *self.back_ends):
            lines = program.new_lines()
            if program.status is not None:
                return f"a program has ended, status {program.status}: {lines[-1:]}"
            if any("Traceback" in line for line in lines):
                return f"a traceback: {lines[-1]}"
        return ""

    def close(self) -> None:
        """End all programs."""
        self._owned.close()
