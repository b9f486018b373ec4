"""Back-end programs of others: the commands that start them, with placeholders.

A command with ``{socket}`` is started once for each device. A command with ``{sockets}`` is started
once for all devices of a class: each of its words that has ``{sockets}``, ``{image}`` or
``{index}`` is repeated for each device, with that device's values.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from emu.config.device_kinds import KINDS
from emu.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: The placeholders of a command; docs/how-to/own-back-ends.md has what each stands for.
PLACEHOLDERS = ("socket", "sockets", "image", "queues", "side", "index", "pid_file")
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
#: Words with one of these are repeated for each device of a command with ``{sockets}``.
_REPEATED = {"sockets", "image", "index"}


class Ready(NamedTuple):
    """A command that has a name.

    Attributes:
        device_class: of the devices that it serves.
        command: with placeholders.
    """

    device_class: str
    command: str


#: Commands for the programs that Debian has, by their names in the options.
READY_MADE: Mapping[str, Ready] = {
    "qemu-storage-daemon": Ready(
        "blk",
        "qemu-storage-daemon "
        "--blockdev=driver=file,node-name=disk{index},filename={image},locking=off "
        "--export=type=vhost-user-blk,id=export{index},node-name=disk{index},writable=on,"
        "num-queues={queues},addr.type=unix,addr.path={sockets}",
    ),
    "testpmd": Ready(
        "net",
        "dpdk-testpmd --lcores=0@(0,1),1@(0,1) --no-huge --no-shconf -m 512 --no-pci "
        "--no-telemetry --file-prefix=emu-{side} "
        "--vdev=net_vhost{index},iface={sockets},queues={queues} -- --auto-start "
        "--port-topology=loop --rxq={queues} --txq={queues} --nb-cores=1 "
        "--total-num-mbufs=32768 --no-mlockall",
    ),
}


class DeviceFiles(NamedTuple):
    """What a command serves a device with.

    Attributes:
        number: of the device within its class, from 0.
        rings: number of the device's rings.
        socket: path of the socket to listen on.
        image: path of the disk image; empty for a device without one.
    """

    number: int
    rings: int
    socket: str
    image: str = ""


@dataclass(frozen=True, slots=True)
class BackEndCommand:
    """The command that serves the devices of one class.

    Attributes:
        device_class: of the devices, a name of `KINDS`.
        name: of `READY_MADE`, or the command's first word.
        words: of the command, with placeholders.
    """

    device_class: str
    name: str
    words: tuple[str, ...]

    @classmethod
    def parse(cls, device_class: str, text: str) -> BackEndCommand:
        """The command of an option's value: a name of `READY_MADE`, or a command.

        Raises:
            OptionError: it is no command, has an unknown placeholder, or no place for a socket or
                for a disk's image.
        """
        option = f"--{device_class}-backend"
        ready = READY_MADE.get(text.strip())
        if ready is not None and ready.device_class != device_class:
            title = KINDS[ready.device_class].plural
            raise OptionError(
                f"{option} {text}: it serves {title}, see --{ready.device_class}-backend"
            )
        try:
            words = tuple(shlex.split(text if ready is None else ready.command))
        except ValueError as error:
            raise OptionError(f"{option} {text!r} is not a command: {error}") from None
        if "\0" in text:  # in a file of --vm
            raise OptionError(f"{option} {text!r} is not a command: it has a null byte")
        if not words:
            raise OptionError(
                f"{option} needs a command, or one of {', '.join(names(device_class))}"
            )
        if ready is None and len(words) == 1 and "{" not in text and names(device_class):
            known = ", ".join(names(device_class))
            raise OptionError(
                f"{option} {text.strip()}: no back-end has this name (there is {known}), and a "
                "command has to name its socket: {socket}"
            )
        command = cls(device_class, text.strip() if ready else words[0], words)
        command._check(option)
        return command

    def _check(self, option: str) -> None:
        used = self._used(self.words)
        for name in sorted(used.difference(PLACEHOLDERS)):
            known = ", ".join(f"{{{each}}}" for each in PLACEHOLDERS)
            raise OptionError(f"{option}: {{{name}}} is not a placeholder: use {known}")
        if "image" in used and not KINDS[self.device_class].has_image:
            raise OptionError(f"{option}: {KINDS[self.device_class].plural} have no {{image}}")
        if "image" not in used and KINDS[self.device_class].has_image:
            # Another file would not have the blocks that the guest expects to read.
            raise OptionError(
                f"{option} {self.name}: the command has to name {{image}}, the file that the "
                "program serves as the disk"
            )
        if {"socket", "sockets"} <= used:
            raise OptionError(f"{option}: use either {{socket}} or {{sockets}}")
        if not used & {"socket", "sockets"}:
            raise OptionError(
                f"{option} {self.name}: the command has to say where its socket is: {{socket}} in "
                "a program for each device, {sockets} in one that serves all"
            )

    @staticmethod
    def _used(words: Iterable[str]) -> set[str]:
        return {name for word in words for name in _PLACEHOLDER.findall(word)}

    @property
    def shared(self) -> bool:
        """Whether one program serves all devices of the class."""
        return "sockets" in self._used(self.words)

    @property
    def daemonizes(self) -> bool:
        """Whether the program writes its process id to a file."""
        return "pid_file" in self._used(self.words)

    @property
    def title(self) -> str:
        """The name that stands for the command, or the command."""
        ready = READY_MADE.get(self.name)
        is_ready = ready is not None and self.words == tuple(shlex.split(ready.command))
        return self.name if is_ready else self.text

    @property
    def text(self) -> str:
        """The command, with placeholders, as a shell takes it."""
        return " ".join(map(_quoted, self.words))

    def argv(self, devices: Sequence[DeviceFiles], *, side: str, pid_file: str) -> list[str]:
        """The words to run.

        Args:
            devices: that the program serves: one, unless it is `shared`.
            side: ``A`` or ``B``.
            pid_file: path for the program's process id.
        """
        argv: list[str] = []
        for word in self.words:
            repeated = self.shared and self._used([word]) & _REPEATED
            served = devices if repeated else devices[:1]
            argv += [self._filled(word, device, side, pid_file) for device in served]
        return argv

    def _filled(self, word: str, device: DeviceFiles, side: str, pid_file: str) -> str:
        values = {
            "socket": device.socket,
            "sockets": device.socket,
            "image": device.image,
            "queues": str(device.rings // KINDS[self.device_class].rings_per_unit),
            "side": side,
            "index": str(device.number),
            "pid_file": pid_file,
        }
        return _PLACEHOLDER.sub(lambda found: values[found[1]], word)


def _quoted(word: str) -> str:
    """A word as a shell takes it; placeholders alone need no quotes."""
    rest = _PLACEHOLDER.sub("", word)
    return word if shlex.quote(rest) == rest or (word and not rest) else shlex.quote(word)


def names(device_class: str) -> list[str]:
    """The names of `READY_MADE` for devices of this class."""
    return [name for name, ready in READY_MADE.items() if ready.device_class == device_class]
