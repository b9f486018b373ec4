"""A TAP device as a NIC's network: Linux' tun driver, one descriptor for each queue.

Frames are plain Ethernet: neither packet information nor virtio-net headers are enabled, so
the kernel does checksums and segmentation itself before a frame is read
(Documentation/networking/tuntap.rst, "Multiqueue tuntap interface" and ``IFF_NO_PI``).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from backends import stats
from backends.fabric import rarp
from backends.limits import FRAMES_PER_TURN, LARGEST_FRAME
from backends.server import ServerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backends.loop import Loop
    from backends.net_device import NetDevice

DEVICE = "/dev/net/tun"
#: Bytes of an interface's name, without the zero at its end (linux/if.h).
MAX_NAME = 15
# linux/if_tun.h, linux/if.h, linux/sockios.h
_TUNSETIFF = 0x400454CA
_TUNGETIFF = 0x800454D2
_IFF_TAP, _IFF_NO_PI, _IFF_MULTI_QUEUE, _IFF_VNET_HDR = 0x0002, 0x1000, 0x0100, 0x4000
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sH22x")
#: The kernel's queue is full: back pressure, not an error of the interface.
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS})
#: The interface exists, but is down.
_DOWN = frozenset({errno.EIO, errno.ENETDOWN})
log = logging.getLogger("backends")


def open_tap(name: str, queues: int) -> list[int]:
    """Descriptors of a TAP device, one for each queue. It is created if missing, and set up.

    An interface that was created here is removed when the last descriptor is closed.

    Raises:
        ServerError: it cannot be opened; the text has the reason.
    """
    if not name or len(os.fsencode(name)) > MAX_NAME or "/" in name:
        raise ServerError(f"--tap {name}: an interface's name has 1 to {MAX_NAME} bytes and no /")
    flags = _IFF_TAP | _IFF_NO_PI | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))
            fcntl.ioctl(fds[-1], _TUNSETIFF, _IFREQ.pack(os.fsencode(name), flags))
        _set_up(name)
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise ServerError(f"--tap {name}: {_reason(error, queues)}") from error
    return fds


def _reason(error: OSError, queues: int) -> str:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return f"there is no {DEVICE}: the kernel's tun driver is missing"
    if error.errno in (errno.EPERM, errno.EACCES):
        return "needs CAP_NET_ADMIN, or a TAP device that belongs to this user"
    if error.errno == errno.EBUSY:
        return "is in use by another program"
    if error.errno == errno.EINVAL:
        kind = "with multi_queue" if queues > 1 else "without multi_queue"
        return f"is not a TAP device {kind}, which a NIC of {2 * queues} rings needs"
    return str(error.strerror)


def _set_up(name: str) -> None:
    """Set the interface up, unless it is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        answer = fcntl.ioctl(control, _SIOCGIFFLAGS, _IFREQ.pack(os.fsencode(name), 0))
        flags = _IFREQ.unpack(answer)[1]
        if not flags & _IFF_UP:
            fcntl.ioctl(control, _SIOCSIFFLAGS, _IFREQ.pack(os.fsencode(name), flags | _IFF_UP))


def inherit_tap(fd: int) -> str:
    """Check an inherited descriptor, and set it non-blocking; the name of its interface.

    Raises:
        ServerError: it is not a TAP device with plain frames.
    """
    try:
        answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(_IFREQ.size))
        os.set_blocking(fd, False)
        os.set_inheritable(fd, False)  # noqa: FBT003  it has no keyword
    except OSError as error:
        raise ServerError(f"--tap-fd {fd}: is not a TAP device: {error.strerror}") from error
    name, flags = _IFREQ.unpack(answer)
    if not flags & _IFF_TAP or not flags & _IFF_NO_PI or flags & _IFF_VNET_HDR:
        raise ServerError(f"--tap-fd {fd}: use a TAP device with IFF_NO_PI, without IFF_VNET_HDR")
    return os.fsdecode(name.rstrip(b"\0"))


class TapPort:
    """Connects one NIC to its TAP device, instead of a `Fabric`.

    What the NIC sends goes out, except for what it sends to itself, which comes back: no bridge
    would return that to the port it came from. What is read from a queue goes to the pair of that
    number. Frames are not queued: one that the kernel does not accept, or for which the driver has
    no buffer, is dropped and counted.

    Args:
        loop: the NIC's loop.
        name: the interface's name, for the log.
        fds: one for each queue; closed by `close`.
    """

    def __init__(self, loop: Loop, name: str, fds: Sequence[int]) -> None:
        self._loop = loop
        self._name = name
        self._fds = list(fds)
        self._nic: NetDevice | None = None
        self._gone = self._down = False

    @property
    def returns_frames(self) -> bool:
        """See `backends.net_device.Network`."""
        return False

    def attach(self, nic: NetDevice) -> None:
        """Read the TAP device for this NIC from now on."""
        self._nic = nic
        for pair, fd in enumerate(self._fds):
            nic.loop.watch(fd, partial(self._on_frames, nic, pair, fd))

    def transmit(self, nic: NetDevice, pair: int, frame: bytes) -> None:
        """A frame that the NIC's driver sends, in the NIC's own thread."""
        if frame[:6] == frame[6:12]:
            nic.deliver(pair, frame)
        elif not self._send(pair, frame):
            nic.counters[stats.PACKETS_DROPPED] += 1

    def announce(self, nic: NetDevice, mac: bytes) -> None:
        """Announce where an address is now (RARP)."""
        if not self._send(0, rarp(mac)):
            nic.counters[stats.PACKETS_DROPPED] += 1

    def close(self) -> None:
        """Close the descriptors; the loops have ended."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def _send(self, pair: int, frame: bytes) -> bool:
        if self._gone:
            return False
        try:
            os.write(self._fds[pair % len(self._fds)], frame)
        except OSError as error:
            self._write_failed(error)
            return False
        self._down = False
        return True

    def _write_failed(self, error: OSError) -> None:
        code = error.errno
        if code == errno.EBADFD:
            self._deleted()
        elif code in _DOWN and not self._down:
            self._down = True
            log.warning("%s is down: frames from its NIC are dropped until it is up", self._name)
        elif code not in _DOWN and code not in _FULL:
            log.debug("%s: %s", self._name, error.strerror)

    def _on_frames(self, nic: NetDevice, pair: int, fd: int, _events: int) -> None:
        try:
            for _ in range(FRAMES_PER_TURN):
                # A NIC with fewer pairs than the TAP device has queues shares them.
                nic.deliver(pair % nic.queue_num, os.read(fd, LARGEST_FRAME))
        except BlockingIOError:
            pass
        except OSError:
            self._deleted()
        nic.publish_later()

    def _deleted(self) -> None:
        """The interface has been deleted: log that, and do not poll its descriptors any more."""
        if self._gone:
            return
        self._gone = True
        for fd in self._fds:
            with suppress(KeyError, OSError):
                self._loop.unwatch(fd)
        log.error("%s has been deleted: its NIC sends and receives no more frames", self._name)
        if self._nic is not None:
            self._nic.set_link_down()
