"""A Linux guest in QEMU whose devices all lead through one `emu tap`, including its migration."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from importlib.resources import as_file, files
from typing import TYPE_CHECKING, Any

import pytest

from tests.emu.runs import Run
from tests.peers.linux_guest import PING_JOB, Guest, make_initramfs
from tests.peers.programs import Running, need
from tests.peers.test_linux_guest import serve_nic
from tests.timeouts import PROGRAM_TIMEOUT, SCALE
from tests.waiting import wait_until
from vhost_user.channel import connect

if TYPE_CHECKING:
    from contextlib import ExitStack
    from pathlib import Path

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(600 * SCALE)]

#: Seconds until the guest under TCG has done its next step, on a busy host.
GUEST_TIMEOUT = 200 * SCALE
IMAGE_BYTES = 16 << 20
DISKS = ("vda", "vdb", "vdc", "vdd")
NIC = "nic"
SIDES = ("src", "dst")
_NAMES = " ".join(f"--name={disk} --filename=/dev/{disk}" for disk in DISKS)
_FIO = (
    "fio --thread --bs=4k --rw=randwrite --ioengine=psync --direct=1 --size=2m --verify=crc32c "
    "--verify_fatal=1 --minimal "
)
#: Write to all disks at once, and read back; be idle until a line comes on the second serial port;
#: read once more. QEMU 7.2's qemu-storage-daemon loses requests that are in flight when the VM
#: migrates (docs/how-to/own-back-ends.md).
JOB = f"""{PING_JOB}
echo EMU fio begins
{_FIO} --do_verify=1 {_NAMES} >/tmp/fio 2>&1 && echo EMU fio is clean || echo EMU failed fio
head -n 1 /dev/ttyS1 >/tmp/line
echo EMU has moved
{_FIO} --verify_only {_NAMES} >/tmp/fio 2>&1 && echo EMU verified || echo EMU failed verify
"""


def serve(side: str, folder: Path, owned: ExitStack) -> list[str]:
    """The back-ends of one side; QEMU's options for its devices, with the tap's sockets."""
    daemon = [need("qemu-storage-daemon", "qemu-system-common")]
    options: list[str] = []
    for disk in DISKS:
        image = folder / f"{disk}.img"
        with image.open("ab") as file:
            file.truncate(IMAGE_BYTES)
        address = f"addr.type=unix,addr.path={folder / f'{side}-{disk}.sock'},num-queues=2"
        daemon += [
            f"--blockdev=driver=file,node-name={disk},filename={image},locking=off",
            f"--export=type=vhost-user-blk,id={disk},node-name={disk},writable=on,{address}",
        ]
        options += [
            *("-chardev", f"socket,id={disk},path={tapped(side, disk, folder)}"),
            *("-device", f"vhost-user-blk-pci,chardev={disk},num-queues=2"),
        ]
    program = owned.enter_context(Running(daemon, folder / f"{side}-daemon.log"))
    for disk in DISKS:
        program.await_socket(folder / f"{side}-{disk}.sock")
    port = f"socket,id=port,path={folder / f'{side}-port.sock'},server=on,wait=off"
    options += ["-chardev", port, "-serial", "chardev:port"]
    direct, through = str(folder / f"{side}-{NIC}.sock"), tapped(side, NIC, folder)
    nic = serve_nic(side, folder, owned)
    return options + [word.replace(direct, through) for word in nic]


def tapped(side: str, device: str, folder: Path) -> str:
    """The tap's socket for a device."""
    return str(folder / "tap" / f"{side}-{device}.sock")


class Tap:
    """One tap for all devices of both sides."""

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        (folder / "tap").mkdir()
        self.log, self.capture = folder / "tap.jsonl", folder / "tap.pcapng"
        pairs = [
            word
            for side in SIDES
            for device in (*DISKS, NIC)
            for word in (
                *("--listen", tapped(side, device, folder)),
                *("--connect", str(folder / f"{side}-{device}.sock")),
            )
        ]
        logs = ["--json", str(self.log), "--pcap", str(self.capture)]
        self.run = Run(folder / "tap.log", ["tap", *pairs, *logs])
        owned.callback(self.run.close)
        self.run.await_line("listening at", count=len(SIDES) * (len(DISKS) + 1))

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """The objects of the log of these kinds, so far."""
        found = []
        for line in self.log.read_text().splitlines(keepends=True):
            if line.endswith("\n"):  # the last one may be written just now
                event = json.loads(line)
                if event["event"] in kinds:
                    found.append(event)
        return found


def test_a_guest_with_every_device_through_one_tap(tmp_path: Path, owned: ExitStack) -> None:
    """It boots, writes and reads, stops and continues, and migrates; the logs have all of it."""
    tshark = need("tshark", "tshark")
    initramfs = make_initramfs(tmp_path, JOB)
    options = [serve(side, tmp_path, owned) for side in SIDES]
    tap = Tap(tmp_path, owned)
    source = owned.enter_context(Guest(tmp_path, "source", initramfs, options[0]))
    for line in ("ping is clean", "fio begins"):
        source.await_line(line, GUEST_TIMEOUT)
    for _ in range(2):
        source.command("stop")
        source.command("cont")
    source.await_line("fio is clean", GUEST_TIMEOUT)
    stream = f"unix:{tmp_path / 'stream'}"
    destination = owned.enter_context(
        Guest(tmp_path, "destination", initramfs, options[1], incoming=stream)
    )
    destination.await_socket(tmp_path / "stream")
    source.command("migrate", uri=stream)
    source.await_migrated()
    assert "has moved" not in source.console
    source.command("quit")
    with connect(str(tmp_path / "dst-port.sock"), "serial port", GUEST_TIMEOUT) as port:
        port.sendall(b"go\n")
        destination.await_line("has moved", GUEST_TIMEOUT)
    for line in ("verified", "done"):
        destination.await_line(line, GUEST_TIMEOUT)
    destination.await_end()
    wait_until(lambda: any(each["migration"] for each in tap.events("start")), "it is reported")
    tap.run.interrupt()
    assert tap.run.end().status == 0

    check_stops(tap)
    check_migration(tap)
    messages = tap.events("request", "reply")
    assert not [each for each in messages if "error" in each]
    # QEMU 7.2 sends SET_STATUS with 0, a reset, before it stops the rings of its NIC.
    broken = {text for each in messages for text in each.get("violations", ())}
    assert {text.partition(":")[0] for text in broken} <= {"VU-F-0413"}
    with as_file(files("emu.tap").joinpath("vhost_user.lua")) as script:
        read = [tshark, "-X", f"lua_script:{script}", "-r", str(tap.capture)]
        shown = subprocess.check_output(
            [*read, "-T", "fields", "-e", "vhost_user.name"], text=True, timeout=PROGRAM_TIMEOUT
        )
    assert shown.split() == [each["name"] for each in messages]


def check_stops(tap: Tap) -> None:
    """Each `stop` and `cont` is a stop and a start of all devices."""
    both = tap.events("stop", "start")
    pauses = [
        (stop, start)
        for stop in both
        for start in both
        if start["since_ns"] == stop["time_ns"] and not start["migration"]
        if len(devices_of(stop)) == len(DISKS) + 1
    ]
    assert len(pauses) >= 2
    for stop, start in pauses:
        assert devices_of(stop) == devices_of(start)


def check_migration(tap: Tap) -> None:
    """The table has every device, and every message and reply of its rows."""
    (start,) = [each for each in tap.events("start") if each["migration"]]
    (stop,) = [each for each in tap.events("stop") if each["time_ns"] == start["since_ns"]]
    for each, side in ((stop, "src"), (start, "dst")):
        assert devices_of(each) == {f"{side}-{device}" for device in (*DISKS, NIC)}
        during = [
            event
            for event in tap.events("request")
            if each["time_ns"] <= event["time_ns"] <= each["end_ns"]
            if event["device"].startswith(side)
        ]
        sent = Counter(event["name"].removeprefix("VHOST_USER_") for event in during)
        rows = {row["row"]: row for row in each["rows"]}
        if each is stop:
            assert rows["get vring base"]["messages"] == sent["GET_VRING_BASE"]
            replied = [len(device["rings"]) for device in rows["get vring base"]["devices"]]
            assert sum(replied) == sent["GET_VRING_BASE"]
        else:
            assert rows["set mem table"]["messages"] >= len(DISKS) + 1
            assert rows["start vrings"]["messages"] >= 4 * sent["SET_VRING_KICK"]


def devices_of(transition: dict[str, Any]) -> set[str]:
    """The devices of its rows."""
    return {device["device"] for row in transition["rows"] for device in row["devices"]}
