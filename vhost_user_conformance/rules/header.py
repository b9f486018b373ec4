"""Header, transport, and payloads."""

from __future__ import annotations

from vhost_user_conformance.rules.rule import Chapter, NotFromOutside

header = Chapter("header", "Header and transport", "Header")
rule = header.rule

rule(
    1,
    "A message begins with 12 bytes: request, flags and size of the payload, in the host's order",
    back="0101 0102",
    front="0101..0104",
)
rule(
    2,
    "Bits 0 and 1 of the flags are the version, 1",
    back="0101 0108..0109",
    front="0101 0164..0165",
)
rule(3, "Bit 2 is set in replies only", back="0101 0110", front="0102 0163")
rule(
    4,
    "Bit 3 asks for an acknowledgement, and is not set in a reply",
    back="0101 0621 0741..0743",
    front="0701..0704 1322",
)
rule(5, "Bits 4 to 31 are not used", back="0101 0111", front="0103 1322")
rule(
    6,
    "A reply has the id of its request, and the size of its type",
    back="0101 0102 0621",
    front="0160..0169 0605 0710 1323",
)
rule(
    7,
    "Descriptors are sent with the first byte of the header",
    source="97f24a0496",
    back="0143 1906 1907 1924",
    front="0105",
)
rule(
    8,
    "Either side may listen",
    back=NotFromOutside("a program connects by itself only with an option of its own"),
    front=NotFromOutside("the suite listens; a front-end listens only with an option of its own"),
)
rule(
    9,
    "Messages may arrive in pieces of any size, and several at once",
    source="Communication",
    back="0104..0106 1908..1913",
    front="0171..0174",
)
rule(
    10,
    "Requests are answered in their order, however many are in flight",
    source="Communication; seen with libvhost-user and DPDK",
    back="0107 0750 0751 1901..1925",
    front="2003",
)
rule(
    11,
    "An incomplete message, or one that announces too much, ends the connection at most",
    back="0140..0142 1745",
    front="0170",
)
rule(
    12,
    "The back-end channel is a socket pair of its own, with the same framing and roles swapped",
    source="Back-end communication",
    back="1310 1315 1316",
    front="1301 1322 1323 1330 1331",
)
rule(
    13,
    "Each request has an id that is defined; an unknown id is refused or ignored",
    back="0112..0114 1710 1821",
    front="0104 1303 1310",
)
rule(
    14,
    "Eventfds may be pipes where the system has no eventfds",
    source="b51082905f",
    back="1753",
    front="0501..0503",
)

structures = Chapter("structures", "Payloads", "Message Specification")
rule = structures.rule

rule(1, "A number has 8 bytes", back="0102 0120 0130", front="0111 0125 0129 0148 0163..0169")
rule(
    2,
    "A ring's state has 8 bytes: index, number",
    back="0121 0122 0124 0131 0132 0134",
    front="0117 0119 0120 0127",
)
rule(
    3,
    "A ring's addresses have 40 bytes, in the order descriptors, used, available",
    back="0123 0133 0401 0811",
    front="0118 0310..0312 0405..0407",
)
rule(
    4,
    "A memory table has 8 bytes and 32 for each region, and as many regions as its count",
    source="Memory region description",
    back="0301..0308 0344",
    front="0114 0301 0302",
)
rule(
    5,
    "A region has guest address, size, user address and offset into its file",
    source="Memory region description",
    back="0315..0317 0325 0326",
    front="0303 0304",
)
rule(
    6,
    "With XEN_MMAP a region has 8 bytes more",
    source="Xen mmap",
    back=NotFromOutside("needs a Xen host, whose devices the descriptors are"),
    front=NotFromOutside("needs a Xen host, whose devices the descriptors are"),
)
rule(
    7,
    "A single region has 8 bytes of padding before it",
    source="Single memory region description",
    back="1042",
    front="0146 0147 1003 1004",
)
rule(
    8,
    "A log has 16 bytes: size, offset",
    source="Log description",
    back="0801 0816",
    front="0115 0802",
)
rule(
    9,
    "An IOTLB message has 32 bytes, the padding included",
    source="IOTLB message",
    back="2444 2445",
    front="0131",
)
rule(
    10,
    "A configuration payload has 12 bytes and the data, whose length is its size field",
    source="Virtio device config space",
    back="0901 0915 0930..0936 0970",
    front="0133 0134 0901 0902",
)
rule(
    11,
    "A vring area has 24 bytes",
    source="Vring area description",
    back="1310",
    front="1304 1311",
)
rule(
    12,
    "An in-flight description has 24 bytes, the padding included",
    source="Inflight description",
    back="1201 1202",
    front="0140 0141 1201 1204",
)
rule(
    13,
    "A shared object is identified by 16 bytes",
    source="VhostUserShared",
    back="2449",
    front="0150 1306 1325",
)
rule(
    14,
    "A device state request has 8 bytes: direction, phase",
    source="Device state transfer parameters",
    back="1501 1502 1516..1520",
    front="0151 1502 1503",
)
rule(
    15,
    "A crypto session has 1072 bytes, some of which are pointers",
    source="QEMU's code; not in the specification",
    back="2446",
    front="0135 0136",
)
rule(
    16,
    "A mapping of shared memory has 40 bytes",
    source="ca77f68785 (pending), rust-vmm",
    back="1310",
    front="1305 1391",
)
rule(
    17,
    "A configuration of shared memory has 8 bytes and 8 for each of 256 regions",
    source="3d6e537a81 (pending), rust-vmm",
    back="2450",
    front="0153",
)
rule(
    18,
    "A payload of another size is refused, or the connection closed",
    back="0120..0124 0130..0134 0344 0930..0936 1042 1520",
    front="0167..0170 0906",
)
rule(
    19,
    "A message has the payload of its type, and none if its type has none",
    front="0110..0154",
)
