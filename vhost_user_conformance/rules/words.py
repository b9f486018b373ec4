"""Why a case is a MUST: the key word of the text behind its rules, or what is lost otherwise.

A case may be a MUST only if one of its rules stands here. The text is QEMU's
``docs/interop/vhost-user.rst`` at `TEXT`, in which a sentence may be from an earlier commit, and
the virtio specification, version 1.3. A rule that the text words as "should", "may" or not at all
is here only if a peer that breaks it loses data of the guest, or ends or hangs another program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from vhost_user_conformance.model.case import BACK_END

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vhost_user_conformance.model.case import Case
    from vhost_user_conformance.rules.rule import Rule

#: The commit of QEMU at which the text was read.
TEXT = "b82b5c8c54"
VIRTIO = "virtio 1.3"
LOSES, KILLS = "otherwise data are lost", "otherwise a program or device is lost"


class Word(NamedTuple):
    """The key word of a sentence.

    Attributes:
        word: as the text has it, or `LOSES` or `KILLS`.
        section: of the text.
        commit: at which the sentence can be read; that of virtio is its version.
        why: the requirement, or what is lost.
    """

    word: str
    section: str
    commit: str
    why: str


_TEXT = {
    "reply flag": ("needs to", "Header", TEXT, "the reply flag is set in each reply"),
    "acknowledge": (
        "MUST",
        "VHOST_USER_PROTOCOL_F_REPLY_ACK",
        TEXT,
        "a request with need_reply is answered, with success or failure",
    ),
    "process": (
        "must",
        "Ring states",
        "0647098d2e",
        "a ring that is started and enabled is processed normally",
    ),
    "not process": ("must not", "Ring states", "0647098d2e", "a stopped ring is not processed"),
    "drop": (
        "must",
        "Ring states",
        "0647098d2e",
        "a ring that is started and disabled is processed without side effects",
    ),
    "enable": (
        "must",
        "Ring states",
        "eae69cc36b",
        "SET_FEATURES without bit 30 enables all rings at once",
    ),
    "on the fly": ("must", "Ring states", TEXT, "configuration changes while rings are processed"),
    "suspended": (
        "must",
        "Suspended device state",
        "a6e76dd3c3",
        "a device whose rings are stopped writes, notifies and sends nothing, and still replies",
    ),
    "complete": (
        "must",
        "VHOST_USER_GET_VRING_BASE",
        "e7985b6a56",
        "requests in flight are completed before a ring is stopped",
    ),
    "num": ("must", "VHOST_USER_GET_VRING_BASE", "c7f2181661", "num of the request is 0"),
    "skip": (
        "must not",
        "VHOST_USER_GET_VRING_BASE_SKIP_DRAIN",
        "1276e6c85d",
        "the back-end does not wait for requests in flight, and must suspend and record them",
    ),
    "before": (
        "must",
        "VHOST_USER_GET_PROTOCOL_FEATURES",
        TEXT,
        "protocol features are read and set before SET_FEATURES",
    ),
    "mtu": ("must", "VHOST_USER_NET_SET_MTU", TEXT, "zero for a valid MTU, non-zero otherwise"),
    "channel": (
        "must",
        "VHOST_USER_SET_BACKEND_REQ_FD",
        TEXT,
        "with REPLY_ACK the back-end answers it with zero for success",
    ),
    "iotlb": ("has to", "VHOST_USER_IOTLB_MSG", TEXT, "the back-end acknowledges the request"),
    "config": (
        "MUST",
        "VHOST_USER_GET_CONFIG",
        TEXT,
        "the reply's size matches the request; a length of zero is an error",
    ),
    "read-only": (
        "MUST NOT",
        "VHOST_USER_SET_CONFIG",
        TEXT,
        "read-only fields are not written but in a migration; the flags must be checked",
    ),
    "session id": (
        "must",
        "VHOST_USER_CREATE_CRYPTO_SESSION",
        TEXT,
        "the session's id is returned",
    ),
    "advise": ("must", "VHOST_USER_POSTCOPY_ADVISE", TEXT, "a userfaultfd is opened"),
    "listen": ("must", "VHOST_USER_POSTCOPY_LISTEN", TEXT, "memory is registered with it"),
    "mapped": (
        "must",
        "VHOST_USER_SET_MEM_TABLE",
        TEXT,
        "in postcopy the regions are mapped, and their bases returned",
    ),
    "end": ("must", "VHOST_USER_POSTCOPY_END", TEXT, "the userfaultfd is disabled"),
    "map": ("must", "VHOST_USER_ADD_MEM_REG", TEXT, "the back-end maps the region"),
    "unmap": ("must", "VHOST_USER_REM_MEM_REG", TEXT, "the back-end unmaps the region"),
    "close": (
        "MUST",
        "VHOST_USER_REM_MEM_REG",
        TEXT,
        "a descriptor that comes with it is closed and not used",
    ),
    "pipe": (
        "must",
        "Migrating back-end state",
        "019233096c",
        "the channel behaves like a pipe, and its reader reads all of it",
    ),
    "error or descriptor": (
        "must not",
        "VHOST_USER_SET_DEVICE_STATE_FD",
        "019233096c",
        "an error is not returned with a descriptor",
    ),
    "state": (
        "must",
        "Migrating back-end state",
        "019233096c",
        "the destination's back-end restores its state, so that the driver sees no difference",
    ),
    "shared object": (
        "must",
        "VHOST_USER_BACKEND_SHARED_OBJECT_ADD",
        TEXT,
        "the front-end answers a request with need_reply",
    ),
    "config change": (
        "must",
        "VHOST_USER_BACKEND_CONFIG_CHANGE_MSG",
        TEXT,
        "the front-end answers a request with need_reply",
    ),
    "shared memory": (
        "shall",
        "VHOST_USER_GET_SHMEM_CONFIG",
        TEXT,
        "sizes are constant, and multiples of a page",
    ),
    "overlap": ("shall", "VHOST_USER_BACKEND_SHMEM_MAP", TEXT, "a mapping over another fails"),
    "whole": ("shall", "VHOST_USER_BACKEND_SHMEM_UNMAP", TEXT, "a whole mapping is unmapped"),
    "options": ("mandatory", "Backend program conventions", TEXT, "--print-capabilities"),
    "daemon": ("must not", "Backend program conventions", TEXT, "the program does not daemonize"),
    "SIGTERM": ("must", "Backend program conventions", TEXT, "the program ends at SIGTERM"),
    "version 1": ("MUST", "virtio 1.3, 6.1", VIRTIO, "a driver accepts it where it is offered"),
    "virtio ring": (
        "MUST",
        "virtio 1.3, 2.7",
        VIRTIO,
        "rings of all sizes, chains and indirect tables are read as specified",
    ),
    "virtio call": (
        "MUST",
        "virtio 1.3, 2.7.7.2",
        VIRTIO,
        "a used buffer notification is sent where it is not suppressed",
    ),
    "virtio status": (
        "MUST",
        "virtio 1.3, 2.1 and 2.4.1",
        VIRTIO,
        "the status is set in its order, and 0 reinitializes the device",
    ),
    "virtio config": (
        "MUST",
        "virtio 1.3, 5",
        VIRTIO,
        "the fields of the space are those that the features announce",
    ),
    "virtio blk": (
        "MUST",
        "virtio 1.3, 5.2.6.2",
        VIRTIO,
        "requests are carried out, and their status is set",
    ),
    "virtio net": (
        "MUST",
        "virtio 1.3, 5.1.6",
        VIRTIO,
        "packets have the header of their features",
    ),
    "virtio rng": ("MUST", "virtio 1.3, 5.4.6.1", VIRTIO, "a byte or more in each used buffer"),
}
_LOST = {
    "misread": (LOSES, "Message Specification", TEXT, "the other side reads other values"),
    "framing": (KILLS, "Communication", TEXT, "a message is misread, and the connection ends"),
    "wrong reply": (
        KILLS,
        "Communication",
        TEXT,
        "the front-end closes the connection at a wrong reply",
    ),
    "wrong descriptor": (LOSES, "Communication", "97f24a0496", "memory or events of another ring"),
    "crash": (KILLS, "Communication", TEXT, "one peer ends the other, with all that it serves"),
    "others": (KILLS, "Communication", TEXT, "a later front-end is not served"),
    "hang": (KILLS, "Communication", TEXT, "one side waits for ever"),
    "unknown message": (
        KILLS,
        "Protocol features",
        TEXT,
        "a peer that does not know a message closes the connection",
    ),
    "unusable feature": (
        KILLS,
        "Protocol features",
        TEXT,
        "a feature without that which it needs cannot be used",
    ),
    "no memory": (LOSES, "Memory region description", TEXT, "other memory is read or written"),
    "leak": (KILLS, "Memory region description", TEXT, "descriptors or memory run out in the end"),
    "no event": (
        KILLS,
        "VHOST_USER_SET_VRING_CALL",
        TEXT,
        "the driver or the device waits for ever",
    ),
    "position": (LOSES, "VHOST_USER_GET_VRING_BASE", TEXT, "a request is lost, or served twice"),
    "old requests": (LOSES, "VHOST_USER_RESET_DEVICE", TEXT, "the next driver's memory is written"),
    "page": (LOSES, "Migration", TEXT, "a page that was written is not migrated"),
    "record": (LOSES, "Inflight I/O tracking", TEXT, "a request is lost, or served twice"),
    "contents": (LOSES, "virtio 1.3, 5", VIRTIO, "other data arrive than were sent"),
    "failed migration": (LOSES, "Communication", "e0f300b36d", "the VM continues without its ring"),
}
WORDS = {key: Word(*fields) for key, fields in (_TEXT | _LOST).items()}

#: By rule: the words for back-ends, and those for front-ends where they differ.
_RULES: dict[str, tuple[str, ...]] = {
    "header-01": ("framing",),
    "header-02": ("wrong reply",),
    "header-03": ("reply flag",),
    "header-04": ("wrong reply",),
    "header-05": ("wrong reply",),
    "header-06": ("wrong reply",),
    "header-07": ("wrong descriptor", ""),
    "header-09": ("framing",),
    "header-10": ("wrong reply",),
    "header-11": ("crash",),
    "header-12": ("framing",),
    "header-13": ("acknowledge", "crash"),
    "header-14": ("no event",),
    **{f"structures-{number:02}": ("misread",) for number in range(1, 18)},
    "structures-18": ("acknowledge", "crash"),
    "structures-19": ("misread",),
    "front_end_message-15": ("before",),
    "front_end_message-16": ("before",),
    "front_end_message-20": ("mtu",),
    "front_end_message-21": ("channel",),
    "front_end_message-22": ("iotlb",),
    "front_end_message-26": ("session id", "misread"),
    "front_end_message-35": ("process", "misread"),
    "front_end_message-41": ("misread",),
    "front_end_message-44": ("shared memory",),
    "back_end_message-02": ("config change",),
    "back_end_message-06": ("shared object",),
    "back_end_message-07": ("shared object",),
    "back_end_message-08": ("hang",),
    "back_end_message-09": ("overlap",),
    "back_end_message-10": ("whole",),
    "feature-90": ("unknown message",),
    "feature-91": ("unusable feature",),
    "feature-92": ("unknown message",),
    "feature-93": ("before",),
    "feature-21": ("no memory",),
    "feature-95": ("version 1",),
    "reply_ack-01": ("acknowledge",),
    "reply_ack-02": ("wrong reply",),
    "reply_ack-03": ("wrong reply",),
    "reply_ack-04": ("wrong reply",),
    "reply_ack-05": ("wrong reply",),
    "reply_ack-06": ("acknowledge",),
    "reply_ack-08": ("crash",),
    "reply_ack-09": ("wrong reply",),
    "rings-01": ("not process",),
    "rings-02": ("process", "no event"),
    "rings-03": ("not process", "position"),
    "rings-04": ("process", "no event"),
    "rings-05": ("enable", "no event"),
    "rings-07": ("not process", "position"),
    "rings-08": ("drop",),
    "rings-09": ("on the fly",),
    "rings-10": ("suspended",),
    "rings-11": ("suspended",),
    "rings-12": ("old requests",),
    "rings-13": ("process", "no memory"),
    "rings-14": ("process", "no event"),
    "rings-15": ("process",),
    "rings-16": ("process", "virtio ring"),
    "rings-17": ("process", "no event"),
    "bases-01": ("position",),
    "bases-02": ("position",),
    "bases-03": ("position",),
    "bases-04": ("num",),
    "bases-05": ("complete",),
    "bases-06": ("complete",),
    "bases-07": ("position",),
    "bases-08": ("position",),
    "bases-09": ("skip",),
    "notifications-01": ("no event",),
    "notifications-02": ("process", "no event"),
    "notifications-03": ("virtio call",),
    "notifications-04": ("virtio call",),
    "notifications-05": ("no event",),
    "notifications-07": ("crash",),
    "dirty_log-01": ("page",),
    "dirty_log-02": ("hang",),
    "dirty_log-03": ("page",),
    "dirty_log-04": ("page",),
    "dirty_log-05": ("page",),
    "dirty_log-07": ("page",),
    "dirty_log-08": ("page",),
    "dirty_log-09": ("crash",),
    "dirty_log-11": ("page",),
    "dirty_log-12": ("page",),
    "dirty_log-13": ("page",),
    "memory-01": ("no memory",),
    "memory-02": ("no memory",),
    "memory-03": ("no memory",),
    "memory-04": ("no memory",),
    "memory-05": ("no memory",),
    "memory-06": ("acknowledge", "no memory"),
    "memory-07": ("map", "no memory"),
    "memory-08": ("unmap", "no memory"),
    "memory-09": ("close", "no memory"),
    "memory-10": ("map", "unusable feature"),
    "memory-12": ("crash",),
    "memory-13": ("no memory",),
    "memory-14": ("leak",),
    "postcopy-01": ("advise",),
    "postcopy-02": ("listen",),
    "postcopy-03": ("mapped",),
    "postcopy-04": ("listen",),
    "postcopy-05": ("end",),
    "postcopy-06": ("others",),
    "device_state-01": ("pipe",),
    "device_state-02": ("pipe",),
    "device_state-03": ("error or descriptor",),
    "device_state-04": ("pipe",),
    "device_state-05": ("pipe",),
    "device_state-06": ("wrong reply",),
    "device_state-07": ("state",),
    "device_state-08": ("unknown message",),
    **{f"inflight-{number:02}": ("record",) for number in (*range(1, 7), 9)},
    "inflight-07": ("crash",),
    "inflight-08": ("process",),
    "config-01": ("config", "wrong reply"),
    "config-02": ("config", "crash"),
    "config-03": ("others",),
    "config-04": ("read-only",),
    "config-05": ("virtio config",),
    "config-06": ("misread",),
    "status-01": ("virtio status",),
    "status-02": ("virtio status",),
    "status-03": ("old requests",),
    "errors-01": ("crash",),
    "errors-02": ("crash",),
    "errors-03": ("others",),
    "errors-04": ("crash",),
    "errors-05": ("crash",),
    "errors-06": ("failed migration",),
    "errors-07": ("hang",),
    "errors-08": ("hang",),
    "errors-09": ("leak",),
    "programs-01": ("options",),
    "programs-02": ("daemon",),
    "programs-03": ("SIGTERM",),
    "limits-01": ("no memory",),
    "limits-03": ("misread",),
    "limits-04": ("no event",),
    "limits-06": ("crash",),
    "data_path-01": ("virtio blk",),
    "data_path-02": ("virtio ring",),
    "data_path-03": ("virtio net", "contents"),
    "data_path-04": ("contents",),
    "data_path-05": ("process", "contents"),
    "data_path-07": ("virtio rng",),
    "data_path-08": ("contents",),
    "data_path-09": ("complete",),
    "data_path-10": ("virtio ring",),
}


def words_of(case: Case, rules: Iterable[Rule]) -> dict[str, Word]:
    """The words behind a case, by the ids of its rules; those without a word are left out.

    Args:
        case: of either role.
        rules: that cover it.
    """
    found = {}
    for rule in rules:
        keys = _RULES.get(rule.id, ("",))
        key = keys[0] if case.role == BACK_END else keys[-1]
        if key:
            found[rule.id] = WORDS[key]
    return found
