"""Requests in flight, configuration, status, errors, programs, limits and the data path."""

from __future__ import annotations

from emu.conformance.rules.rule import Chapter, NotFromOutside

inflight = Chapter("inflight", "Requests in flight", "Inflight I/O tracking")
rule = inflight.rule

rule(
    1,
    "The back-end makes a region for the rings that it is told of",
    back="1201..1210 1261..1263",
    front="1201 1206",
)
rule(2, "It is given back before rings start, as it was", back="1211 1219 1221", front="1202..1205")
rule(
    3,
    "Each ring has a part: version 1, its size, used index, last batch",
    back="1207 1208 1212 1214 1216..1218",
)
rule(
    4, "What is taken is noted with a counter, and what is completed is not", back="1213 1215 1235"
)
rule(
    5,
    "What was noted is served again in the order of the counters, and nothing twice",
    back="1230..1236",
)
rule(6, "A region outlives its connection and its back-end", back="1240..1242", front="1205")
rule(7, "A region that cannot be is refused, or survived", back="1250..1275")
rule(8, "Without a region rings serve", back="1220", front="1206")
rule(
    9,
    "The region of a disk may move to another host with its VM",
    source="3dfd711ea9, 3a80ff0721",
    back="1240",
    front=NotFromOutside("it shows in the front-end's own migration stream"),
)

config = Chapter("config", "Configuration space", "VHOST_USER_GET_CONFIG")
rule = config.rule

rule(
    1,
    "GET_CONFIG is answered with as many bytes as were asked for",
    back="0901..0907 0910..0914 0951..0956 1919",
    front="0901..0903 0906",
)
rule(2, "An empty reply is an error", back="0915 0920..0926", front="0905")
rule(3, "What cannot be asked for is survived", back="0930..0950")
rule(
    4,
    "Read-only fields are not changed by SET_CONFIG",
    source="VHOST_USER_SET_CONFIG",
    back="0960..0981",
    front="0904",
)
rule(5, "The space says what the device can do", source="virtio 1.3, 5", back="0985..0998")
rule(
    6,
    "CONFIG_CHANGE_MSG has it read again",
    source="VHOST_USER_BACKEND_CONFIG_CHANGE_MSG",
    back=NotFromOutside("nothing that a front-end says changes it: the back-end's owner does"),
    front="1320 1321",
)

status = Chapter("status", "Status and reset", "VHOST_USER_SET_STATUS")
rule = status.rule

rule(1, "The status is virtio's, in 8 bits", back="1430..1439 1444", front="1402")
rule(
    2,
    "It goes by virtio's steps, and back to 0 only",
    back="1432..1436 1440 1443",
    front="1401 1403..1405",
)
rule(
    3,
    "RESET_DEVICE keeps the connection and what was agreed on",
    source="VHOST_USER_RESET_DEVICE",
    back="1403 1404",
    front="1406 1407",
)
rule(
    4,
    "RESET_OWNER is not used any more; it is ignored, or disables rings",
    source="22d2464f7e",
    back="0230 1420",
    front="1408",
)

errors = Chapter("errors", "Errors", "Communication")
rule = errors.rule

rule(
    1,
    "A reply with the wrong id, size or flags ends the connection, and not the front-end",
    front="0160..0170 1712..1714",
)
rule(2, "A front-end that loses its back-end lives", front="1701..1711 1332")
rule(
    3,
    "A front-end that goes, whenever it does, harms no later one",
    back="0141 0142 0231 0232 1304 1317 1730..1746 1801..1805 1922",
)
rule(
    4,
    "A back-end does not die of what a front-end says",
    back="0140 0344 1710..1722 1730..1732 1760..1767 2401..2435",
)
rule(
    5,
    "A back-end does not die of what a driver puts into rings",
    source="virtio 1.3, 2.7",
    back="1770..1772 2160..2180 2234..2250",
)
rule(
    6,
    "A failed GET_VRING_BASE fails the migration",
    source="e0f300b36d, 5a317017b8, bc85aae420",
    front="1708",
)
rule(7, "No wait is for ever", source="QEMU's has no time-out", back="2007 2008", front="2001 2002")
rule(
    8,
    "A request on the back-end channel while a main one is unanswered is for nobody to wait on",
    source="4382138f64",
    back="1308 1311",
    front=NotFromOutside(
        "a front-end may serve the channel between its own requests only, as QEMU does"
    ),
)
rule(
    9, "Descriptors that come with what is refused are closed", back="0143 1821..1824", front="1712"
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
    "It fails early when a feature that was asked for cannot be had",
    back=NotFromOutside("which options ask for features is each program's own"),
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
    "As many slots as GET_MAX_MEM_SLOTS says, 509 or 512 at most",
    source="libvhost-user, QEMU",
    back="1043 1044",
    front="1009",
)
rule(3, "256 bytes of configuration", back="0914 0934..0936 0968", front="0901")
rule(4, "256 rings in KICK, CALL and ERR", back="1111", front="0507..0509 0419")
rule(5, "Rings of 1024 descriptors", source="QEMU's VIRTQUEUE_MAX_SIZE", back="0426", front="0404")
rule(
    6,
    "A payload that is larger than any message ends the connection at most",
    back="0140",
    front="0170 1330",
)
rule(
    7,
    "As many rings as GET_QUEUE_NUM says",
    source="Multiple queue support",
    back="1101..1103 1111",
    front="0419 1101..1104",
)

data_path = Chapter("data_path", "Requests in rings", "virtio 1.3, 2.7 and 5")
rule = data_path.rule

rule(
    1,
    "A disk reads and writes what it is asked to",
    back="2101..2129 2143..2144 2152..2157 2185 2186",
    front="2110 2111",
)
rule(
    2,
    "Requests may be cut into descriptors anywhere, and lie in indirect tables",
    back="2130..2142 2155..2157 2181..2184 2190..2192 2205..2219 2260..2265",
    front="2101..2107",
)
rule(3, "Frames are sent as they are", back="2201..2204", front="2112")
rule(4, "Frames are received as they are, in their order", back="2252..2258 2266 2271..2275")
rule(
    5,
    "Full rings, and many requests at once, are served",
    back="2143 2150..2154 2220..2229",
    front="2104",
)
rule(6, "How long it takes is told, and is no rule", back="2009 2010", front="1709")
