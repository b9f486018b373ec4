"""Acknowledgements, ring states, bases and notifications."""

from __future__ import annotations

from vhost_user_conformance.rules.rule import Chapter, NotFromOutside

reply_ack = Chapter("reply_ack", "Acknowledgements", "VHOST_USER_PROTOCOL_F_REPLY_ACK")
rule = reply_ack.rule

rule(
    1,
    "Once REPLY_ACK is negotiated, a request with need_reply is acknowledged once",
    back="0701..0710 0750 0751 0761..0768 1902 1903",
    front="1303..1306 1322 1323",
)
rule(2, "need_reply is set only after REPLY_ACK was negotiated", front="0701 0702")
rule(
    3,
    "Without need_reply there is no acknowledgement",
    back="0103 0721..0730 0751 0771..0778",
    front="1324",
)
rule(
    4,
    "A request that has a reply of its own has no acknowledgement in addition",
    back="0621 0741..0745 0951 1003 1210 1437 1525..1527 1920",
    front="0704",
)
rule(5, "A code other than 0 is an error, which the sender handles", front="0705..0708 0320")
rule(
    6,
    "A request that failed is not acknowledged with 0",
    back="0340..0343 0753 0754 1111 1260 1313 1701..1703",
    front="1303..1306",
)
rule(
    7,
    "need_reply without REPLY_ACK is not specified",
    back="0752",
    front="0702 0703",
)
rule(
    8,
    "After a failure a back-end continues or closes the connection; both are allowed",
    back="1701..1703 1710..1722",
    front="0709 0710",
)
rule(9, "The sender waits for a reply", front="0709 2001 2002")

ring_states = Chapter("rings", "Ring states", "Ring states")
rule = ring_states.rule

rule(
    1,
    "Rings are stopped and disabled initially",
    back="0440..0442 0448 1242 1410 1612",
    front="0410",
)
rule(
    2,
    "A ring starts with a kick",
    back="0001 0401 0403 0416 0505 0507 2012 9901",
    front="0511 0512 1741",
)
rule(
    3,
    "GET_VRING_BASE stops one ring only",
    back="0404 0407..0409 0614 1105 1109 2278",
    front="0411..0413 1406",
)
rule(
    4,
    "SET_VRING_ENABLE enables and disables a ring, and does not stop it",
    back="0410..0413 0417 0419 1917 2277 2297",
    front="0409 0410 0418",
)
rule(
    5,
    "Without bit 30 in SET_FEATURES all rings are enabled at once",
    back="0223 0415",
    front="0220..0222",
)
rule(
    6,
    "A ring may be enabled or disabled while it is stopped, which takes effect at its start",
    back="0412 0417 0450 2301..2320",
    front="0410 0416 0421",
)
rule(
    7,
    "A stopped ring is not served, enabled or not",
    back="0404 0440 0445 0615 1402 1441 1743 2004",
    front="0413",
)
rule(
    8,
    "A started and disabled ring is processed without effect: a NIC drops the frames",
    back="0410 0414 0418 0419 0446 0449 0450 2012 2277 2298 2299",
)
rule(
    9,
    "Rings may be configured while they run",
    back="0508 0524 0813 1918 1923 2001 2014",
    front="0607",
)
rule(
    10,
    "While all rings are stopped a back-end writes no memory, makes no call and sends no message",
    source="a6e76dd3c3",
    back="0614..0616 1311 2004..2006 2293",
)
rule(
    11,
    "A back-end with all rings stopped still answers",
    source="a6e76dd3c3",
    back="0408 0955 1407 1409",
)
rule(
    12,
    "RESET_DEVICE and status 0 return rings to their initial state",
    source="VHOST_USER_RESET_DEVICE",
    back="1401..1414 1120 1121 1126 1127 1436 1441 1442 1447 1451 1452",
    front="1405..1407",
)
rule(
    13,
    "A ring is set up with size, base and addresses before it is started",
    back="1760..1764",
    front="0401..0404 0408 0419 0420 0423..0428 1716",
)
rule(
    14,
    "A stopped ring is set up again, with its descriptors",
    source="required by libvhost-user and rust-vmm",
    back="0405 0406 0443 0444 0509",
    front="0276 0414..0417 0422 1802",
)
rule(
    15,
    "The message order of each known front-end is accepted",
    source="QEMU, DPDK, cloud-hypervisor, crosvm, Firecracker, libblkio",
    back="2301..2399",
)
rule(
    16,
    "Rings of all sizes from 2 to 1024 serve, also where their indices wrap",
    source="virtio 1.3, 2.7",
    back="0402 0420..0426 0430..0433 2145..2152 2220..2229 2267..2270",
    front="0404",
)
rule(
    17,
    "Rings serve independently, each with a state of its own",
    source="Multiple queue support",
    back="1103..1110 1112..1118 1122 1128..1130 1906",
    front="0510",
)

bases = Chapter("bases", "Bases", "VHOST_USER_GET_VRING_BASE")
rule = bases.rule

rule(
    1,
    "The base of a split ring is its next available index, of 16 bits",
    back="0002 0601..0605 0611 0612 2279 9902",
    front="0602 0608",
)
rule(2, "The used index is read from guest memory", back="0612 0619 1217 1236", front="0604")
rule(
    3,
    "The base of a packed ring has both indices and their wrap counters",
    back="0630 0631",
    front=NotFromOutside(
        "the suite's back-end serves split rings only, and does not offer packed rings"
    ),
)
rule(4, "The num field of GET_VRING_BASE is 0", source="c7f2181661", back="0620", front="0601")
rule(
    5,
    "Requests that were taken are completed before GET_VRING_BASE is answered",
    source="e7985b6a56",
    back="0613 0622 1117..1119 1925 2002 2003",
)
rule(
    6,
    "With GET_VRING_BASE_INFLIGHT they may be recorded in the in-flight region instead",
    source="e0822e6085; since 1276e6c85d only at GET_VRING_BASE_SKIP_DRAIN",
    back="0213 1280",
    front="0271",
)
rule(
    9,
    "GET_VRING_BASE_SKIP_DRAIN waits for no request: those in flight are recorded",
    source="VHOST_USER_GET_VRING_BASE_SKIP_DRAIN; 1276e6c85d",
    back="0214 1281 1282",
    front="0274 0275 0610",
)
rule(
    7,
    "A ring continues at its base, and no request is lost or served twice",
    back="0405 0406 0408 0610 0617..0619 1404 1914 1925 2011 2321..2340",
    front="0603..0606 0608 0609 0611 0612 1732 1739 1740",
)
rule(
    8,
    "The front-end recovers a base that it did not receive from the used index",
    source="QEMU's do_vhost_virtqueue_stop",
    back="1236 1241",
    front="0609 1732 1739 1740",
)

notifications = Chapter("notifications", "Kicks and calls", "VHOST_USER_SET_VRING_CALL")
rule = notifications.rule

rule(
    1,
    "Bits 0 to 7 are the ring, bit 8 means that there is no descriptor, the others are 0",
    back="0510 0511 1722",
    front="0504..0509",
)
rule(
    2,
    "After a kick all available requests are served, and again after the next one",
    back="0403 0504..0507 0530 0535 1108 1450 1921",
    front="0511 0512 0514 0515 0518",
)
rule(
    3,
    "A completion is followed by a call, after the update of the used index",
    back="0418 0446 0501 0502 0623 1107 1115 1116 2159 2276",
)
rule(
    4,
    "NO_INTERRUPT and EVENT_IDX suppress calls",
    source="virtio 1.3, 2.7.7",
    back="0503 0520..0528 2187..2189 2195 2230..2233 2251",
    front="0514..0517 0519 2108",
)
rule(
    5,
    "CALL, KICK and ERR may be sent in any order, and replaced",
    back="0508 0509 0512 0513 0524 0531 0533 0536 1918 2014",
    front="0501..0503 0510 0513 0520 0521",
)
rule(
    6,
    "A ring that cannot be processed is reported by ERR",
    source="VHOST_USER_SET_VRING_ERR",
    back="0511 0531 0532 1123 1770..1772",
    front="0503 0520 0521",
)
rule(7, "A descriptor that cannot be written, or is not an eventfd, is survived", back="1750..1755")
