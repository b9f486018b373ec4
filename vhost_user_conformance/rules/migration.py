"""The dirty log, memory, postcopy and device state."""

from __future__ import annotations

from vhost_user_conformance.rules.rule import Chapter, NotFromOutside

dirty_log = Chapter("dirty_log", "The dirty log", "Migration")
rule = dirty_log.rule

rule(
    1,
    "SET_LOG_BASE, then SET_FEATURES with LOG_ALL, then SET_VRING_ADDR with F_LOG switch it on",
    back="0801 0802 0806 0813 0817 0832 0841 2341..2360",
    front="0804..0806 0817",
)
rule(
    2,
    "SET_LOG_BASE is answered with LOG_SHMFD, by 0, 8 or 16 bytes",
    source="QEMU's tests, libvhost-user, rust-vmm",
    back="0801",
    front="0812..0814",
)
rule(
    3,
    "The back-end logs all its writes to guest memory",
    back="0803 0804 0805 0821 0824..0826 0829 0830 0833..0838",
)
rule(
    4,
    "It logs the used ring of a ring with F_LOG, at log_guest_addr",
    back="0802 0807 0811 0818 0819 0822 0823 0827 0841 1125",
    front="0807 0808",
)
rule(
    5,
    "A bit for each page of 4096 bytes from guest address 0 on, set atomically",
    back="0804 0805 0812 0818..0822 0827 0831",
    front="0802 0803 0816",
)
rule(6, "Nothing is logged without LOG_ALL", back="0806 0808 2361..2380", front="0809 0810 0815")
rule(
    7,
    "A log may be replaced, and its descriptor closed",
    back="0809 0814 0828 0839 0840 1812 1813 1826",
)
rule(8, "Logging continues over a stop and a start", back="0810")
rule(9, "An invalid log is refused or survived", back="0816 1780 1824")
rule(
    10,
    "SET_LOG_FD may be signalled when the log changes",
    source="VHOST_USER_SET_LOG_FD",
    back="0815 1814",
    front="0116",
)
rule(
    11,
    "LOG_SHMFD and LOG_ALL are offered and negotiated together",
    back="0220 0817",
    front="0801 0810 0811",
)
rule(
    12,
    "The log is enlarged before a region is added",
    source="QEMU's vhost_commit",
    back="1049",
    front=NotFromOutside("the suite cannot plug memory into a VM during a migration"),
)
rule(
    13,
    "The front-end clears bits atomically, and no bit is set after rings are stopped",
    source="QEMU's vhost_dev_sync_region",
    back="0614 0615 2004",
    front=NotFromOutside("its use of the bits is visible only in the memory at the destination"),
)

memory = Chapter("memory", "Memory", "Memory region description")
rule = memory.rule

rule(
    1,
    "A table has 1 to 8 regions, with a descriptor each in the same order",
    back="0301..0313 0326",
    front="0105 0301 0302 0313",
)
rule(
    2,
    "A table replaces the previous one as a whole",
    back="0320..0324 0338 0358..0360 0363 1915 1916 1766 1767 1810 1811",
    front="0308 0309",
)
rule(
    3,
    "A region is within its file, at its offset, and can be mapped as shared",
    back="0315..0318 0329 0343 0355..0357 1823",
    front="0302..0304 1203",
)
rule(
    4,
    "Regions do not overlap, are not empty, and do not wrap around",
    back="0327 0328 0335..0337 1035..1041",
    front="0305..0307 1005 1015",
)
rule(
    5,
    "Rings have user addresses, buffers have guest addresses",
    back="0325 0330..0333 0345..0347 2155 2156 2218 2219 2265",
    front="0310..0312 2101",
)
rule(6, "An invalid table is refused", back="0340..0344 0753 1720 1805", front="0320 0705")
rule(
    7,
    "With CONFIGURE_MEM_SLOTS regions are added and removed one by one",
    source="VHOST_USER_ADD_MEM_REG",
    back="1001..1022 1046..1052 1056..1058",
    front="1001..1008 1011..1014 1743",
)
rule(
    8,
    "A region is removed by guest address, user address and size; its offset is ignored",
    source="VHOST_USER_REM_MEM_REG",
    back="1023..1029",
    front="1006 1017",
)
rule(
    9,
    "ADD_MEM_REG has one descriptor; one with REM_MEM_REG is closed",
    source="VHOST_USER_REM_MEM_REG",
    back="1030..1034 1820",
    front="1003 1016",
)
rule(
    10,
    "GET_MAX_MEM_SLOTS returns the number of slots",
    source="VHOST_USER_GET_MAX_MEM_SLOTS",
    back="1001 1002 1043..1045 1059",
    front="1001 1009 1010",
)
rule(
    11,
    "QEMU does not use SET_MEM_TABLE and slots together",
    source="QEMU's vhost_user_set_mem_table",
    back="1053 1054",
    front="1002",
)
rule(
    12,
    "Rings in memory that is added later, or removed, are survived",
    source="67f4f663cd",
    back="0361 0362 1021 1022 1055 1058 1766 1767",
)
rule(
    13,
    "With IOMMU_PLATFORM addresses are translated by the IOTLB",
    source="IOMMU support",
    back="2444 2445",
    front=NotFromOutside(
        "feature bit 33 is not offered to a front-end: its guest would need an IOMMU"
    ),
)
rule(
    14,
    "Unused descriptors are closed, and unused memory is unmapped",
    back="0350 0351 1801..1829",
    front="1801",
)

postcopy = Chapter("postcopy", "Postcopy", "Postcopy support")
rule = postcopy.rule
_DESTINATION = NotFromOutside(
    "a front-end sends it as the destination of a migration, which the suite cannot make it"
)

rule(1, "POSTCOPY_ADVISE is answered with a userfaultfd", back="1601 1602 1611", front=_DESTINATION)
rule(
    2,
    "POSTCOPY_LISTEN is sent after it and before memory, and is answered",
    back="1603 1613 1614",
    front=_DESTINATION,
)
rule(
    3,
    "In postcopy memory messages are answered with the back-end's addresses",
    back="1604 1616",
    front=_DESTINATION,
)
rule(
    4,
    "Missing pages are requested, and used once they are present",
    back="1606..1608 1610",
    front=_DESTINATION,
)
rule(
    5,
    "POSTCOPY_END is answered, and no page is requested after it",
    back="1605 1609 1615 1617",
    front=_DESTINATION,
)
rule(6, "The next connection begins without postcopy", back="1612")

device_state = Chapter("device_state", "Device state", "Migrating back-end state; 019233096c")
rule = device_state.rule

rule(
    1,
    "A state is transferred while all rings are stopped, in phase 0",
    back="1518 1519 1523 1524",
    front="1501 1502",
)
rule(
    2,
    "Direction 0 saves, 1 loads; any other is refused",
    back="1501 1502 1516 1517",
    front="1503",
)
rule(
    3,
    "The reply has a descriptor if bit 8 is clear, and none with an error",
    back="1501 1502 1516..1522",
    front="1506",
)
rule(4, "The descriptor is an end of a pipe, or a socket", back="1521 1522", front="1504")
rule(
    5,
    "The writer closes its end after the state; CHECK_DEVICE_STATE is sent after that",
    back="1503..1515 1528..1534",
    front="1505",
)
rule(6, "Each request is answered once, by its own reply", back="1525..1527")
rule(
    7,
    "A saved state can be loaded by another back-end",
    back="1505..1509",
    front=NotFromOutside("the suite has no state that a front-end could interpret"),
)
rule(8, "Without DEVICE_STATE there is no transfer", back="1535 2425 2426", front="0244 0264")
