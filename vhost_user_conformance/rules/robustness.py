"""Errors, programs and limits."""

from __future__ import annotations

from vhost_user_conformance.rules.rule import Chapter, NotFromOutside

errors = Chapter("errors", "Errors", "Communication")
rule = errors.rule

rule(
    1,
    "A reply with the wrong id, size or flags ends the connection, but not the front-end",
    front="0160..0170 0180 0181 1712..1714",
)
rule(
    2,
    "A front-end survives the loss of its back-end",
    front="0001 1332 1701..1711 1715 1720..1743 9901",
)
rule(
    3,
    "A front-end that disconnects, at any moment, does not affect later ones",
    back="0141 0142 0231 0232 1304 1317 1730..1746 1801..1805 1922",
)
rule(
    4,
    "No message of a front-end crashes a back-end",
    back="0140 0344 1710..1722 1730..1732 1760..1767 2401..2435",
)
rule(
    5,
    "No contents of rings crash a back-end",
    source="virtio 1.3, 2.7",
    back="1770..1772 2160..2180 2234..2250",
)
rule(
    6,
    "A failed GET_VRING_BASE fails the migration",
    source="e0f300b36d, 5a317017b8, bc85aae420",
    front="1708",
)
rule(
    7,
    "Each wait has a time limit",
    source="QEMU waits without one",
    back="2007 2008",
    front="2001 2002",
)
rule(
    8,
    "Neither side waits for a reply on the back-end channel while a main request is unanswered",
    source="4382138f64",
    back="1308 1311",
    front=NotFromOutside(
        "a front-end may serve the channel between its own requests only, as QEMU does"
    ),
)
rule(
    9,
    "The descriptors of a refused request are closed",
    back="0143 1821..1824",
    front="1712 1803",
)

programs = Chapter("programs", "Back-end programs", "Backend program conventions")
rule = programs.rule

rule(1, "--print-capabilities prints JSON with the type, and ends with status 0", back="2501 2502")
rule(2, "The program stays in the foreground", back="2503")
rule(3, "It ends soon after SIGTERM", back="2504 2505")
rule(
    4,
    "--socket-path or --fd, and not both",
    back="2506 2507",
)
rule(
    5,
    "It fails early when a requested feature is not available",
    back=NotFromOutside("the options that request features differ between programs"),
)
rule(
    6,
    "Descriptions in /usr/share/qemu/vhost-user are found by name and type",
    source="docs/interop/vhost-user.json",
    back=NotFromOutside("it is about files that a distribution installs, not about a program"),
    front=NotFromOutside("it is about management software, which picks the program"),
)

limits = Chapter("limits", "Limits", "Message Specification")
rule = limits.rule

rule(1, "8 regions in a table, 8 descriptors in a message", back="0308 0342", front="0106 0301")
rule(
    2,
    "As many slots as GET_MAX_MEM_SLOTS returns, 509 or 512 at most",
    source="libvhost-user, QEMU",
    back="1043 1044",
    front="1009",
)
rule(3, "256 bytes of configuration", back="0914 0934..0936 0968", front="0901")
rule(4, "256 rings in KICK, CALL and ERR", back="1111 1128..1130", front="0507..0509 0419")
rule(5, "Rings of 1024 descriptors", source="QEMU's VIRTQUEUE_MAX_SIZE", back="0426", front="0404")
rule(
    6,
    "A payload larger than any message ends the connection at most",
    back="0140",
    front="0170 1330",
)
rule(
    7,
    "As many rings as GET_QUEUE_NUM returns",
    source="Multiple queue support",
    back="1101..1103 1111",
    front="0419 1101..1105",
)
