"""The front-ends that `scripts` replays: the order of their messages, and its source.

*Recorded* means that the program was run against the suite's back-end, and its messages were
recorded (``tests/peers/test_scripts.py`` compares them again where the program is installed).
*Read* means that its source was read at this revision.
"""

from __future__ import annotations

from vhost_user_conformance.back_end.script import (
    EVERY,
    F,
    P,
    Part,
    Rings,
    Script,
    Step,
)
from vhost_user_conformance.model.device_class import DEVICE_CLASSES

#: QEMU starts all devices but NICs by one function, and a disk is the one that uses most messages.
_NIC = ("net",)
_ALL_BUT_NICS = tuple(name for name in DEVICE_CLASSES if name not in _NIC)
_DISK = ("blk",)

_MEMORY = Step(F.SET_MEM_TABLE, ack=True)
_CALL, _KICK, _ERR = Step(F.SET_VRING_CALL), Step(F.SET_VRING_KICK), Step(F.SET_VRING_ERR)
_NUM, _BASE, _ADDR = Step(F.SET_VRING_NUM), Step(F.SET_VRING_BASE), Step(F.SET_VRING_ADDR)
_FEATURES, _GET_FEATURES = Step(F.SET_FEATURES), Step(F.GET_FEATURES)
_ON, _OFF = Step(F.SET_VRING_ENABLE, num=1), Step(F.SET_VRING_ENABLE)
_GET_BASE = Step(F.GET_VRING_BASE)
_PROTOCOL = (Step(F.GET_PROTOCOL_FEATURES), Step(F.SET_PROTOCOL_FEATURES))


def _acked(*steps: Step) -> tuple[Step, ...]:
    return tuple(step._replace(ack=True) for step in steps)


# -- QEMU
#
# A disk is enabled last, a NIC first, before SET_FEATURES. A disk's CALL is sent for all of its
# rings before their other messages, a NIC's after KICK. With CONFIGURE_MEM_SLOTS regions are added
# once, and not sent again at a later start. With STATUS it is read before each change of it; from
# 8.0 on it is set to 0 after GET_VRING_BASE, in 7.2 before it. (7.2 acknowledges
# INBAND_NOTIFICATIONS, too, without using them: that is omitted.)

_QEMU_KNOWS = P((1 << 17) - 1) & ~P.INBAND_NOTIFICATIONS
_DISK_KNOWS = _QEMU_KNOWS & ~(P.RARP | P.NET_MTU)
_NIC_KNOWS = _QEMU_KNOWS & ~(P.CONFIG | P.INFLIGHT_SHMFD)
_GET_STATUS = Step(F.GET_STATUS)
_FEATURES_OK = (_GET_STATUS, Step(F.SET_STATUS, num=8))
_DRIVER_OK = (_GET_STATUS, Step(F.SET_STATUS, num=15))
_STATUS_0 = Step(F.SET_STATUS)
_TABLE = _MEMORY._replace(unless=P.CONFIGURE_MEM_SLOTS)
_REGIONS = Step(F.ADD_MEM_REG, ack=True)
_INFLIGHT, _SET_INFLIGHT = Step(F.GET_INFLIGHT_FD), Step(F.SET_INFLIGHT_FD)
_LOG = (
    Step(F.SET_LOG_BASE),
    Step(F.SET_FEATURES, ack=True, barrier=True, log=True),
    _GET_STATUS,
    Rings((Step(F.SET_VRING_ADDR, ack=True, barrier=True, log=True),)),
)
_UNLOG = (_FEATURES, _GET_STATUS, Rings((_ADDR,)))


def _qemu_setup(call: Step, err: Step) -> tuple[Part, ...]:
    return (
        _GET_FEATURES,
        *_PROTOCOL,
        Step(F.GET_QUEUE_NUM),
        Step(F.GET_MAX_MEM_SLOTS),
        Step(F.SET_BACKEND_REQ_FD, ack=True),
        Step(F.SET_OWNER),
        _GET_FEATURES,
        Rings((call, err), EVERY),
    )


def _qemu_disk(name: str, source: str, **differs: Step) -> Script:
    """QEMU's vhost-user-blk; its versions differ in three messages."""
    call, kick = differs.get("call", _CALL), differs.get("kick", _KICK)
    err, on = differs.get("err", _ERR), differs.get("on", _ON)
    rings = (Rings((_NUM, _BASE, _ADDR, kick)), Rings((on,), EVERY), *_DRIVER_OK)
    calls = Rings((call,), EVERY)
    again = (_SET_INFLIGHT, calls, _FEATURES, _GET_STATUS, _TABLE)
    stop = (Rings((on._replace(num=0),), EVERY), Rings((_GET_BASE,)))
    return Script(
        name,
        source,
        _DISK_KNOWS,
        (*_qemu_setup(call, err), Step(F.GET_CONFIG)),
        (_FEATURES, *_FEATURES_OK, _INFLIGHT, *again, _REGIONS, *rings),
        (_FEATURES, *_FEATURES_OK, *again, *rings),
        (_STATUS_0, *stop) if on is _ON else (*stop, _STATUS_0),
        _LOG,
        _UNLOG,
        drives=_ALL_BUT_NICS,
    )


def _qemu_nic(name: str, source: str, **differs: Step) -> Script:
    """QEMU's virtio-net with one pair of rings."""
    call, kick = differs.get("call", _CALL), differs.get("kick", _KICK)
    err, on = differs.get("err", _ERR), differs.get("on", _ON)
    begin = (Rings((on,)), _FEATURES, *_FEATURES_OK, _TABLE)
    rings = (Rings((_NUM, _BASE, _ADDR, kick, call)), *_DRIVER_OK)
    stop = (Rings((_GET_BASE,)),)
    return Script(
        name,
        source,
        _NIC_KNOWS,
        _qemu_setup(call, err),
        (*begin, _REGIONS, *rings),
        (*begin, *rings),
        (_STATUS_0, *stop) if on is _ON else (*stop, _STATUS_0),
        _LOG,
        _UNLOG,
        drives=_NIC,
    )


def _pairs(*parts: Part) -> tuple[Part, ...]:
    """The parts for rings 0 and 1, then for rings 2 and 3 without those about the whole device."""
    once = {F.SET_MEM_TABLE, F.ADD_MEM_REG}
    whole: list[Part] = []
    for pair in ((0, 1), (2, 3)):
        for part in parts:
            if isinstance(part, Rings):
                whole.append(part._replace(which=pair))
            elif pair == (0, 1) or part.id not in once:
                whole.append(part)
    return tuple(whole)


_RECORDED = "recorded: QEMU 7.2.22"
_QEMU_DISK = _qemu_disk("QEMU 7.2 with a disk", _RECORDED)
_QEMU_NIC = _qemu_nic("QEMU 7.2 with a NIC", _RECORDED)
_BASE_RING = (_NUM, _BASE, _ADDR, _KICK, _CALL)
#: Without STATUS, which it does not send for the first of its pairs.
_QEMU_PAIRS = Script(
    "QEMU 7.2 with a NIC of two pairs",
    _RECORDED + ", with Linux 6.1 as its guest, which enables the second pair last",
    _NIC_KNOWS & ~P.STATUS,
    (
        *_qemu_setup(_CALL, _ERR)[:-1],
        Rings((_CALL, _ERR), (0, 1)),
        *(_GET_FEATURES, *_PROTOCOL, _GET_FEATURES),
        Rings((_CALL, _ERR), (2, 3)),
        *(Rings((_ON,), (0, 1)), Rings((_OFF,), (2, 3)), Rings((_ON,), (0, 1))),
    ),
    (
        *_pairs(_FEATURES, _TABLE, _REGIONS, Rings(_BASE_RING)),
        Rings((_ON,), (0, 1, 2, 3)),
    ),
    _pairs(Rings((_ON,)), _FEATURES, _TABLE, Rings(_BASE_RING)),
    (Rings((_GET_BASE,), (0, 1, 2, 3)),),
    _pairs(*_LOG),
    _pairs(*_UNLOG),
    least=4,
    drives=_NIC,
)
#: d7dc0682f5 (8.2): ENABLE is acknowledged. 1ba9a52203 (2025-11): KICK, CALL and ERR are, too.
_SYNC_ON = Step(F.SET_VRING_ENABLE, ack=True, barrier=True, num=1)
_LATE_10 = {"on": _SYNC_ON}
_LATE_11 = {
    "on": _SYNC_ON,
    **dict(zip(("call", "kick", "err"), _acked(_CALL, _KICK, _ERR), strict=True)),
}
_READ_10 = "read: hw/virtio/vhost.c and vhost-user.c with d7dc0682f5, the rest as recorded of 7.2"
_READ_11 = "read: the same with 1ba9a52203 (2025-11)"

# -- others

_SEEN_CLOUD_HYPERVISOR = (
    "read: virtio-devices/src/vhost_user/vu_common_ctrl.rs and blk.rs at ae44c2971c (2026-08); "
    "for need_reply in all messages after the negotiation: rust-vmm vhost, frontend.rs at 4e217d99"
)
_CLOUD_HYPERVISOR_START: tuple[Part, ...] = (
    *_acked(_FEATURES, _MEMORY),
    # NUM for all rings first: SPDK needs their number early.
    Rings(_acked(_NUM)),
    *_acked(_INFLIGHT, _SET_INFLIGHT),
    Rings(_acked(_ADDR, _BASE, _CALL, _KICK)),
    Rings(_acked(_ON)),
)
_CLOUD_HYPERVISOR = Script(
    "cloud-hypervisor",
    _SEEN_CLOUD_HYPERVISOR,
    # It sends whole tables although it acknowledges slots, which it uses for hotplugged memory.
    P.CONFIG
    | P.MQ
    | P.CONFIGURE_MEM_SLOTS
    | P.REPLY_ACK
    | P.INFLIGHT_SHMFD
    | P.LOG_SHMFD
    | P.DEVICE_STATE,
    (
        Step(F.SET_OWNER),
        _GET_FEATURES,
        *_PROTOCOL,
        *_acked(Step(F.GET_QUEUE_NUM), Step(F.GET_CONFIG)),
    ),
    _CLOUD_HYPERVISOR_START,
    tuple(part for part in _CLOUD_HYPERVISOR_START if part != _acked(_INFLIGHT)[0]),
    # Paused, and then saved.
    (Rings(_acked(_OFF)), Rings(_acked(_GET_BASE))),
    (
        Step(F.SET_LOG_BASE, ack=True),
        Step(F.SET_FEATURES, ack=True, log=True),
        Rings((Step(F.SET_VRING_ADDR, ack=True, log=True),)),
    ),
    (Rings(_acked(_ADDR)), *_acked(_FEATURES)),
)
_CROSVM_RING = (_NUM, _ADDR, _BASE, _CALL, _KICK, _ON)
_PLAIN_TABLE = Step(F.SET_MEM_TABLE)
_CROSVM = Script(
    "crosvm",
    "read: devices/src/virtio/vhost_user_frontend/mod.rs at f1e797a68d (2026-08). It logs nothing, "
    "but saves its devices: logging is switched on and off here as QEMU does it",
    P.CONFIG | P.MQ | P.BACKEND_REQ | P.DEVICE_STATE | P.REPLY_ACK,
    (
        Step(F.SET_OWNER),
        _GET_FEATURES,
        *_PROTOCOL,
        Step(F.SET_BACKEND_REQ_FD),
        Step(F.GET_QUEUE_NUM),
        Step(F.GET_CONFIG),
    ),
    (_FEATURES, _PLAIN_TABLE, Rings(_CROSVM_RING)),
    # SET_FEATURES is not sent again when the features have not changed.
    (_PLAIN_TABLE, Rings(_CROSVM_RING)),
    (Rings((_OFF, _GET_BASE)),),
    _LOG,
    _UNLOG,
)
_VIRTIO_USER_START: tuple[Part, ...] = (
    Rings((_CALL,)),
    _FEATURES,
    *(Step(F.SET_STATUS, ack=True, num=11), _GET_STATUS, _GET_STATUS),
    _MEMORY,
    Rings((_NUM, _BASE, _ADDR, _KICK)),
    Rings((_ON,)),
    Step(F.SET_STATUS, ack=True, num=15),
)
_VIRTIO_USER = Script(
    "DPDK virtio-user",
    "recorded: dpdk-testpmd 22.11, stopped by a change of its offloads. It has no guest that could "
    "migrate: logging is switched on and off here as QEMU does it",
    P.MQ | P.REPLY_ACK | P.STATUS,
    (Step(F.SET_OWNER), _GET_FEATURES, *_PROTOCOL),
    _VIRTIO_USER_START,
    _VIRTIO_USER_START,
    (Rings((_OFF,)), Rings((_GET_BASE,))),
    _LOG,
    _UNLOG,
    renews=True,
    drives=_NIC,
)
_FIRECRACKER = Script(
    "Firecracker",
    "read: src/vmm/src/devices/virtio/vhost_user.rs and block/vhost_user/device.rs at 81b38b9dad "
    "(2026-08). It has no way to stop such a device",
    P.CONFIG,
    (Step(F.SET_OWNER), _GET_FEATURES, *_PROTOCOL, Step(F.GET_CONFIG)),
    (_FEATURES, _PLAIN_TABLE, Rings((_NUM,)), Rings((_ADDR, _BASE, _CALL, _KICK, _ON))),
    drives=_DISK,
)
_LIBBLKIO = Script(
    "libblkio",
    "read: virtio-driver, src/transports/vhost_user.rs at 05cb17d39b. It does not stop the rings, "
    "but disconnects",
    P.REPLY_ACK | P.CONFIG | P.CONFIGURE_MEM_SLOTS | P.MQ,
    (
        Step(F.SET_OWNER),
        _GET_FEATURES,
        # Features are sent before protocol features are read.
        _FEATURES,
        *_PROTOCOL,
        *_acked(Step(F.GET_QUEUE_NUM), Step(F.GET_MAX_MEM_SLOTS), Step(F.GET_CONFIG)),
    ),
    (_REGIONS, Rings(_acked(_NUM, _BASE, _ADDR, _KICK, _CALL, _ON))),
    requires=P.REPLY_ACK | P.CONFIG | P.CONFIGURE_MEM_SLOTS,
    drives=_DISK,
)

#: Their positions are part of the cases' numbers: new ones go to the end.
SCRIPTS = (
    _QEMU_DISK,
    _QEMU_NIC,
    _qemu_disk("QEMU 10 with a disk", _READ_10, **_LATE_10),
    _qemu_disk("QEMU 11 with a disk", _READ_11, **_LATE_11),
    _CLOUD_HYPERVISOR,
    _CROSVM,
    _VIRTIO_USER,
    _QEMU_DISK._replace(
        name="a front-end without REPLY_ACK",
        source=_RECORDED + ", to which REPLY_ACK was not offered",
        knows=_DISK_KNOWS & ~P.REPLY_ACK,
    ),
    _qemu_nic("QEMU 10 with a NIC", _READ_10, **_LATE_10),
    _qemu_nic("QEMU 11 with a NIC", _READ_11, **_LATE_11),
    _QEMU_PAIRS,
    _FIRECRACKER,
    _LIBBLKIO,
)
