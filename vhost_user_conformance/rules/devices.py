"""Requests in flight, configuration, status, and the data path."""

from __future__ import annotations

from vhost_user_conformance.rules.rule import Chapter, NotFromOutside

inflight = Chapter("inflight", "Requests in flight", "Inflight I/O tracking")
rule = inflight.rule

rule(
    1,
    "The back-end makes a region for the number and size of rings in the request",
    back="1201..1210 1261..1263",
    front="1201 1206 1209 1211",
)
rule(
    2,
    "The front-end passes it back unchanged before rings start",
    back="1211 1219 1221 1228 1246",
    front="1202..1205 1207 1208 1210 1212 1213",
)
rule(
    3,
    "Each ring has a part: version 1, its size, used index, last batch",
    back="1207 1208 1212 1214 1216..1218 1223 1224",
)
rule(
    4,
    "Requests in flight are recorded with a counter, and completed ones are cleared",
    back="1213 1215 1222 1226 1227 1229 1235",
)
rule(
    5,
    "Recorded requests are served again in the order of their counters, and none is served twice",
    back="1230..1237 1243..1245",
)
rule(6, "A region outlives its connection and its back-end", back="1240..1242", front="1205 1731")
rule(7, "An invalid region is refused, or survived", back="1250..1275")
rule(8, "Rings serve without a region", back="1220", front="1206")
rule(
    9,
    "The region of a disk may move to another host with its VM",
    source="3dfd711ea9, 3a80ff0721",
    back="1240",
    front=NotFromOutside("it is visible in the front-end's own migration stream only"),
)

config = Chapter("config", "Configuration space", "VHOST_USER_GET_CONFIG")
rule = config.rule

rule(
    1,
    "GET_CONFIG is answered with the requested number of bytes",
    back="0901..0907 0910..0914 0951..0956 1919",
    front="0901..0903 0906 0907",
)
rule(2, "An empty reply is an error", back="0915 0920..0926", front="0905")
rule(3, "An invalid request is survived", back="0930..0950")
rule(
    4,
    "Read-only fields are not changed by SET_CONFIG",
    source="VHOST_USER_SET_CONFIG",
    back="0960..0983",
    front="0904 0908 0909",
)
rule(
    5,
    "The fields of the space agree with what the device does",
    source="virtio 1.3, 5",
    back="0985..0998",
)
rule(
    6,
    "The front-end reads the space again after CONFIG_CHANGE_MSG",
    source="VHOST_USER_BACKEND_CONFIG_CHANGE_MSG",
    back=NotFromOutside("no message of a front-end changes it: the user of the back-end does"),
    front="1320 1321 1334 1335",
)

status = Chapter("status", "Status and reset", "VHOST_USER_SET_STATUS")
rule = status.rule

rule(1, "The status is virtio's, in 8 bits", back="1430..1439 1444..1446 1448 1449", front="1402")
rule(
    2,
    "It is set in virtio's order, and bits are only cleared by a reset to 0",
    back="1432..1436 1440 1443",
    front="1401 1403..1405",
)
rule(
    3,
    "RESET_DEVICE keeps the connection and the negotiated features",
    source="VHOST_USER_RESET_DEVICE",
    back="1403 1404",
    front="1406 1407",
)
rule(
    4,
    "RESET_OWNER is deprecated: it is ignored, or disables rings",
    source="22d2464f7e",
    back="0230 1420",
    front="1408",
)

data_path = Chapter("data_path", "Requests in rings", "virtio 1.3, 2.7 and 5")
rule = data_path.rule

rule(
    1,
    "A disk reads and writes the requested sectors",
    back="2101..2129 2134..2139 2143..2144 2152..2159 2185 2186 2193 2700..2715",
    front="2110 2111 2113..2116 2119",
)
rule(
    2,
    "Requests may be split into descriptors anywhere, and be in indirect tables",
    back="2130..2133 2140..2142 2155..2157 2181..2184 2190..2192 2194 2205..2219 2259..2265 "
    "2705..2708",
    front="2101..2107 2109",
)
rule(3, "Frames are sent unchanged", back="2201..2204 2854..2856 2865 2866", front="2112 2117")
rule(
    4,
    "Frames are received unchanged and in order",
    back="2252..2258 2266 2271..2275 2850..2853 2857..2866",
    front="2118",
)
rule(
    5,
    "Full rings and many requests at once are served",
    back="2143 2150..2154 2220..2229",
    front="2104",
)
rule(6, "Durations are reported; no rule limits them", back="2009 2010", front="1709")
rule(
    7,
    "A request for random bytes gets at least one, and as many as its used element has",
    source="virtio 1.3, 5.4.6.1",
    back="2601..2613",
)
rule(
    8,
    "Random bytes are not given twice",
    source="virtio 1.3, 5.4",
    back="2614 2615",
)
rule(
    9,
    "Requests for random bytes that are in flight are completed when their ring stops or restarts",
    source="virtio 1.3, 5.4; Ring states",
    back="2616 2617",
)
rule(
    10,
    "A driver's request for random bytes has buffers that the device writes, and no others",
    source="virtio 1.3, 5.4.6.1",
    back="2620..2627",
    front="2120",
)
rule(11, "An entropy device has one queue", source="virtio 1.3, 5.4.2", front="2121")
