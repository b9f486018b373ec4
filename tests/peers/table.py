"""The peers that the suite is run on, and their commands, as data.

In a command ``emu conform`` replaces ``{socket}`` and ``{qmp}``; `tests.peers.programs.fill`
replaces the others: ``{image}`` is a disk image, ``{folder}`` a directory, ``{queues}`` the number
of queues, ``{prefix}`` a unique name, ``{guest}`` a guest's kernel that drives any virtio device.
"""

from __future__ import annotations

from typing import NamedTuple

from vhost_user_conformance.model.case import BACK_END, FRONT_END

#: Areas for a short run; see `Peer.quick`. Each session of a front-end starts a VM, so
#: the areas for front-ends are those whose cases share few sessions.
_QUICK = ("negotiation", "rings", "bases", "errors")
_QUICK_SESSIONS = ("rings", "bases", "data_path")


class Peer(NamedTuple):
    """One program under test.

    Attributes:
        name: in results and explanations.
        role: back-end or front-end.
        device: class of the device.
        program: that has to be installed.
        packages: of Debian, or "" for programs of this project.
        command: starts it.
        version: command that prints its version.
        queues: number of queues.
        runs: of the whole suite, to find verdicts that differ between runs.
        quick: the areas that ``make test`` runs.
        enter: what comes before the command, where the program is in a chroot.
    """

    name: str
    role: str
    device: str
    program: str
    packages: str
    command: str
    version: tuple[str, ...]
    queues: int = 2
    runs: int = 3
    quick: tuple[str, ...] = _QUICK
    enter: str = ""


_EMU_VERSION = ("emu", "--version")
_PMD_VERSION = ("dpdk-testpmd", "-v", "--no-huge", "--no-pci", "--no-shconf", "-m", "64")
_PMD = "dpdk-testpmd -l 0,1 --no-huge --no-shconf -m 256 --no-pci --file-prefix {prefix}"
_PMD_PORTS = (
    "-- -i --auto-start --rxq={queues} --txq={queues} --nb-cores=1 "
    "--total-num-mbufs=8192 --no-mlockall"
)
_QEMU_VERSION = ("qemu-system-x86_64", "--version")
_QEMU = (
    "qemu-system-x86_64 -m 256 -nodefaults -nographic "
    "-object memory-backend-memfd,id=m,size=256M,share=on -machine q35,memory-backend=m "
    "-qmp unix:{qmp},server=on,wait=off -chardev socket,id=c,path={socket}"
)

#: The package that contains it depends on Debian's release.
STORAGE_DAEMON = Peer(
    "qemu-storage-daemon",
    BACK_END,
    "blk",
    "qemu-storage-daemon",
    "qemu-system-common qemu-utils",
    "qemu-storage-daemon --blockdev driver=file,node-name=f,filename={image},locking=off "
    "--blockdev driver=raw,node-name=d,file=f --export type=vhost-user-blk,id=e,node-name=d,"
    "num-queues={queues},writable=on,addr.type=unix,addr.path={socket}",
    ("qemu-storage-daemon", "--version"),
    queues=4,
)
#: Debian installs it outside of PATH. It ends with its front-end.
VIRTIOFSD = Peer(
    "virtiofsd",
    BACK_END,
    "fs",
    "/usr/lib/qemu/virtiofsd",
    "qemu-system-common",
    "/usr/lib/qemu/virtiofsd --socket-path={socket} -o source={folder} -o sandbox=chroot",
    ("/usr/lib/qemu/virtiofsd", "--version"),
)
#: It sends each frame back to its sender.
PMD_BACK_END = Peer(
    "dpdk-testpmd",
    BACK_END,
    "net",
    "dpdk-testpmd",
    "dpdk-dev",
    f"{_PMD} --vdev net_vhost0,iface={{socket}},queues={{queues}} {_PMD_PORTS}",
    _PMD_VERSION,
)
PMD_FRONT_END = Peer(
    "dpdk-virtio-user",
    FRONT_END,
    "net",
    "dpdk-testpmd",
    "dpdk-dev",
    f"{_PMD} --single-file-segments "
    f"--vdev net_virtio_user0,path={{socket}},queues={{queues}},queue_size=256 "
    f"{_PMD_PORTS} --forward-mode=txonly",
    _PMD_VERSION,
    runs=2,
    quick=_QUICK_SESSIONS,
)


def _qemu_with_guest(name: str, device: str, device_class: str = "", before: str = "") -> Peer:
    """QEMU with a device that a guest of our own drives (`tests.peers.bare_guest`).

    Args:
        name: of the peer, behind ``qemu-``.
        device: in QEMU, with its options.
        device_class: of the suite, "" where it has none.
        before: what uses the chardev instead of the device.
    """
    options = f"{before} -device {device}" if before else f"-device {device},chardev=c"
    return Peer(
        f"qemu-{name}",
        FRONT_END,
        device_class,
        "qemu-system-x86_64",
        "qemu-system-x86",
        f"{_QEMU} -bios qboot.rom {options} -kernel {{guest}}",
        _QEMU_VERSION,
        runs=1,
        quick=("rings", "bases"),
    )


PEERS = (
    Peer(
        "vhost-emu-blk",
        BACK_END,
        "blk",
        "vhost-emu-blk",
        "",
        "vhost-emu-blk --socket-path {socket} --blk-file {image} --num-queues {queues}",
        _EMU_VERSION,
        queues=4,
    ),
    Peer(
        "vhost-emu-net",
        BACK_END,
        "net",
        "vhost-emu-net",
        "",
        "vhost-emu-net --socket-path {socket} --num-queues {queues} "
        "--mac 02:00:00:00:00:01 --mtu 1500",
        _EMU_VERSION,
        queues=4,
    ),
    Peer(
        "vhost-emu-rng",
        BACK_END,
        "rng",
        "vhost-emu-rng",
        "",
        "vhost-emu-rng --socket-path {socket}",
        _EMU_VERSION,
        queues=1,
    ),
    STORAGE_DAEMON,
    VIRTIOFSD,
    PMD_BACK_END,
    Peer(
        "emu-attach-blk",
        FRONT_END,
        "blk",
        "emu",
        "",
        "emu attach --blk {socket} --rings 2 --scratch --qmp {qmp} -q",
        _EMU_VERSION,
        runs=1,
        quick=_QUICK_SESSIONS,
    ),
    Peer(
        "emu-attach-net",
        FRONT_END,
        "net",
        "emu",
        "",
        "emu attach --net {socket} --qmp {qmp} -q --rings 4",
        _EMU_VERSION,
        runs=1,
        quick=_QUICK_SESSIONS,
    ),
    Peer(
        "emu-attach-rng",
        FRONT_END,
        "rng",
        "emu",
        "",
        "emu attach --rng {socket} --rings 1 --qmp {qmp} -q",
        _EMU_VERSION,
        queues=1,
        runs=1,
        quick=_QUICK_SESSIONS,
    ),
    # Its guest is the BIOS.
    Peer(
        "qemu-blk",
        FRONT_END,
        "blk",
        "qemu-system-x86_64",
        "qemu-system-x86",
        f"{_QEMU} -device vhost-user-blk-pci,chardev=c,bootindex=0",
        _QEMU_VERSION,
        runs=1,
        quick=_QUICK_SESSIONS,
    ),
    # MSI-X, TCG and vhost-user together abort a NIC of QEMU 7.2.
    _qemu_with_guest(
        "net",
        "virtio-net-pci,netdev=n,vectors=0",
        "net",
        before="-netdev vhost-user,id=n,chardev=c",
    ),
    # The BIOS does not use these.
    _qemu_with_guest("fs", "vhost-user-fs-pci,tag=fs", "fs"),
    PMD_FRONT_END,
)

#: Its own version begins with 0.0; the date in that of the package tells versions apart.
_PASST_VERSION = (
    "dpkg-query --show --showformat='${Version}' passt | "
    "sed 's/.*git\\(....\\)\\(..\\)\\(..\\).*/passt version \\1.\\2.\\3\\n/'"
)
#: Peers of newer releases of Debian, each in a chroot (`tests.peers.newer`). Their versions differ
#: from those above, by which explanations and pages tell them apart.
NEWER = (
    STORAGE_DAEMON._replace(packages="qemu-system-common qemu-utils", runs=1),
    # It is written in Rust, and shares no code with the one above.
    Peer(
        "virtiofsd-rust",
        BACK_END,
        "fs",
        "/usr/libexec/virtiofsd",
        "virtiofsd",
        "/usr/libexec/virtiofsd --socket-path={socket} --shared-dir {folder} --sandbox none",
        ("sh", "-c", "echo version $(/usr/libexec/virtiofsd --version)"),
        runs=1,
    ),
    # It serves one front-end after the other, and ends with status 1 at an error.
    Peer(
        "passt",
        BACK_END,
        "net",
        "passt",
        "passt",
        "passt --foreground --vhost-user --socket {socket}",
        ("sh", "-c", _PASST_VERSION),
        queues=1,
        runs=1,
    ),
    PMD_BACK_END._replace(runs=1),
    *(
        peer._replace(packages="qemu-system-x86")
        for peer in PEERS
        if peer.name in ("qemu-blk", "qemu-net", "qemu-fs")
    ),
    _qemu_with_guest("rng", "vhost-user-rng-pci", "rng"),
    _qemu_with_guest("vsock", "vhost-user-vsock-pci"),
    _qemu_with_guest("gpio", "vhost-user-gpio-pci"),
    _qemu_with_guest("scsi", "vhost-user-scsi-pci"),
    # QEMU's tools are its users; its own package has no program.
    Peer(
        "libblkio",
        FRONT_END,
        "blk",
        "qemu-img",
        "qemu-utils qemu-block-extra",
        "qemu-img bench -t none -c 100000000 -d 4 --image-opts "
        "driver=virtio-blk-vhost-user,path={socket},cache.direct=on",
        ("sh", "-c", "dpkg-query --show --showformat='version ${Version}\\n' libblkio1"),
        runs=1,
        quick=_QUICK_SESSIONS,
    ),
)

#: Further programs that the tests in this directory need.
GUEST_PACKAGES = {
    "busybox": "busybox-static",
    "mkfs.ext4": "e2fsprogs",
    "fio": "fio",
}
#: The browser of tests/emu/report/page/test_browser.py.
BROWSER_PACKAGES = ("chromium", "chromium-driver")
KERNEL_PACKAGE = "linux-image-cloud-amd64"
