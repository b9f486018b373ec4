"""A Linux guest in QEMU: a Debian kernel, and an initramfs that runs a job.

It boots under TCG, without KVM, in some seconds. Its output is on its serial console; lines of the
job begin with ``EMU``.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.guest.arp_icmp import CLIENT_ADDRESS, GUEST_ADDRESS, answer
from tests.peers.programs import Running, kernel, need
from tests.peers.table import GUEST_PACKAGES
from tests.timeouts import PROGRAM_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

MEMORY = "256M"
MODULES = ("virtio_pci", "virtio_blk", "virtio_net")
#: Seconds for the job of a guest under TCG, on a busy host.
TIMEOUT = PROGRAM_TIMEOUT
_UNDER_WAY = ("setup", "active", "device", "wait-unplug")
_CLIENT_MAC = b"\x02\x45\x43\x48\x4f\x02"

INIT = """#!/bin/sh
export PATH=/bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
echo EMU booted
. /job
echo EMU done
sync
poweroff -f
"""

#: A file system on the disk, and files that are read back with their checksums.
DISK_JOB = """
mkfs.ext4 -q -F /dev/vda && mkdir -p /mnt && mount -t ext4 /dev/vda /mnt || echo EMU failed mount
echo EMU fio begins
fio --name=a --directory=/mnt --size={size} --bs=4k --rw=randwrite --ioengine=psync --direct=1 \
    --verify=crc32c --do_verify=1 --verify_fatal=1 --loops={loops} --minimal >/tmp/fio 2>&1 \
    && echo EMU fio is clean || {{ echo EMU failed fio; cat /tmp/fio; }}
umount /mnt && echo EMU unmounted
"""

#: Wait until the disk has this number of sectors, and write the last one.
GROW_JOB = """
echo EMU job begins
until [ $(cat /sys/block/vda/size) = {sectors} ]; do sleep 0.1; done
echo EMU disk has grown
dd if=/dev/zero of=/dev/vda bs=512 seek=$(({sectors} - 1)) count=1 conv=fsync && echo EMU written
"""

#: Read the whole disk several times.
READ_JOB = """
echo EMU job begins
for turn in $(seq {turns}); do
    echo 1 >/proc/sys/vm/drop_caches
    [ "$(md5sum </dev/vda)" = "{digest}  -" ] || echo EMU failed md5sum
done
echo EMU all was read
"""

PING_JOB = f"""
ip addr add {socket.inet_ntoa(GUEST_ADDRESS)}/24 dev eth0 && ip link set eth0 up
ping -c 5 -i 1 -s 18 -W 5 {socket.inet_ntoa(CLIENT_ADDRESS)} >/tmp/ping 2>&1
grep -q ' 5 packets received' /tmp/ping && echo EMU ping is clean || cat /tmp/ping
"""


def make_initramfs(folder: Path, job: str) -> Path:
    """An initramfs whose init runs the job."""
    root = folder / "root"
    for name in ("bin", "proc", "sys", "dev", "tmp", "modules", "lib64"):
        (root / name).mkdir(parents=True, exist_ok=True)
    busybox = need("busybox", GUEST_PACKAGES["busybox"])
    shutil.copy(busybox, root / "bin/busybox")
    for name in subprocess.check_output([busybox, "--list"], text=True).split():
        if not (root / "bin" / name).exists():
            (root / "bin" / name).symlink_to("busybox")
    for tool, package in GUEST_PACKAGES.items():
        if tool in job:
            _copy_program(Path(need(tool, package)), root)
    _copy_modules(root / "modules")
    (root / "job").write_text(job)
    (root / "init").write_text(INIT)
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    archive = subprocess.run(
        [busybox, "cpio", "-o", "-H", "newc"],
        input=names.encode(),
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    ).stdout
    path = folder / "initramfs.gz"
    path.write_bytes(gzip.compress(archive, 1))
    return path


def _copy_program(program: Path, root: Path) -> None:
    """A program and its shared libraries, at the same places."""
    target = root / "bin" / program.name
    target.unlink(missing_ok=True)
    shutil.copy(program.resolve(), target)
    libraries = subprocess.check_output(["ldd", str(program)], text=True)
    for library in re.findall(r"(/\S+)", libraries):
        there = root / library.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(library).resolve(), there)


def _copy_modules(folder: Path) -> None:
    """The modules that the guest needs and the kernel does not have built in, in order."""
    base = Path("/lib/modules") / kernel().name.removeprefix("vmlinuz-")
    needs = {}
    for line in (base / "modules.dep").read_text().splitlines():
        name, _, others = line.partition(":")
        needs[Path(name).name.removesuffix(".ko")] = [name, *others.split()]
    order: list[str] = []
    for module in MODULES:
        for name in reversed(needs.get(module, [])):
            if Path(name).name not in order:
                shutil.copy(base / name, folder / Path(name).name)
                order.append(Path(name).name)
    (folder / "order").write_text(" ".join(order))


class Guest(Running):
    """One QEMU with a Linux guest.

    Args:
        folder: for its console, its monitor and its log.
        name: of this QEMU.
        initramfs: that it boots.
        devices: options for its devices.
        incoming: address of an incoming migration, or "".
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        initramfs: Path,
        devices: Sequence[str],
        *,
        incoming: str = "",
    ) -> None:
        self._monitor_path = folder / f"{name}.qmp"
        self.console_path = folder / f"{name}.console"
        argv = [
            need("qemu-system-x86_64", "qemu-system-x86"),
            *("-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-nographic", "-nodefaults"),
            *("-object", f"memory-backend-memfd,id=mem,size={MEMORY},share=on"),
            *("-machine", "q35,memory-backend=mem", "-no-reboot"),
            *("-kernel", str(kernel()), "-initrd", str(initramfs)),
            *("-append", "console=ttyS0 quiet panic=-1"),
            *("-serial", f"file:{self.console_path}"),
            *("-qmp", f"unix:{self._monitor_path},server=on,wait=off"),
            *devices,
            *(("-incoming", incoming) if incoming else ()),
        ]
        super().__init__(argv, folder / f"{name}.log")

    @property
    def console(self) -> str:
        """The output of the guest so far."""
        if not self.console_path.exists():
            return ""
        return self.console_path.read_text(errors="replace")

    def await_line(self, text: str, timeout: float = TIMEOUT) -> None:
        """Return when the guest has printed this line."""
        deadline = time.monotonic() + timeout
        while True:
            ended = self.process.poll() is not None  # first: the line may be its last one
            console = self.console
            if f"EMU {text}" in console:
                return
            assert "EMU failed" not in console, console
            assert not ended, f"{console}\n{self.output}"
            assert time.monotonic() < deadline, f"{console}\n{self.output}"
            time.sleep(0.05)  # no event tells that another program has written to a file

    def await_end(self) -> None:
        """Return when QEMU has ended by itself with status 0."""
        assert self.process.wait(TIMEOUT) == 0, self.output

    def command(self, name: str, **arguments: Any) -> Any:
        """Execute a QMP command; its return value."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(str(self._monitor_path))
            with sock.makefile("rw") as stream:
                stream.readline()
                for line in ({"execute": "qmp_capabilities"}, _command(name, arguments)):
                    stream.write(json.dumps(line) + "\n")
                    stream.flush()
                    value = _answer(stream)
        return value

    def await_migrated(self, *under_way: str) -> dict[str, Any]:
        """Return the result of query-migrate once the migration has completed.

        Args:
            under_way: further statuses that are allowed until then.
        """
        deadline = time.monotonic() + TIMEOUT
        while True:
            state: dict[str, Any] = self.command("query-migrate")
            if state["status"] == "completed":
                return state
            assert state["status"] in {*_UNDER_WAY, *under_way}, state
            assert time.monotonic() < deadline, state
            time.sleep(0.05)  # the event for it would need a connection that stays open


def _command(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"execute": name, "arguments": arguments}


def _answer(stream: Any) -> Any:
    """The next response; events are skipped."""
    while True:
        line = json.loads(stream.readline())
        assert "error" not in line, line
        if "return" in line:
            return line["return"]


class Client:
    """A host at the NIC's uplink that answers ARP and ping, in its own thread."""

    def __init__(self, path: Path) -> None:
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(str(path))
        self._sock.settimeout(0.2)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                frame, uplink = self._sock.recvfrom(65536)
            except TimeoutError:
                continue
            reply = answer(frame, _CLIENT_MAC, CLIENT_ADDRESS)
            if reply is not None and uplink:
                self._sock.sendto(reply, uplink)

    def close(self) -> None:
        """End the thread, and close the socket."""
        self._over.set()
        self._thread.join(TIMEOUT)
        self._sock.close()
