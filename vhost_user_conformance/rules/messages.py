"""Each row of the message table, and each protocol feature, as a rule.

The rows are those of `vhost_user.messages`: a new one is in the matrix at once, and `test_matrix`
fails until it is covered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vhost_user.features import ProtocolFeature
from vhost_user.messages import BACKEND_MESSAGES, FRONTEND_MESSAGES
from vhost_user_conformance.rules.rule import Chapter, NotFromOutside

if TYPE_CHECKING:
    from vhost_user.message_spec import MessageSpec

#: VU-F-0110 is about the payload of message 1, and so on.
_PAYLOADS = 109
_NO_PROVOKING = NotFromOutside(
    "no message of a front-end makes a back-end send it; 1310 and 1311 check what a back-end sends "
    "by itself"
)

#: By message: cases for back-ends, and for front-ends; the case about its size is added.
FRONT_END_MESSAGES: dict[str, tuple[str, str]] = {
    "GET_FEATURES": ("0102 0201 0204 0741", "0207 0272"),
    "SET_FEATURES": (
        "0120 0130 0223..0226 0701 0721 0813",
        "0207 0209..0213 0216..0219 0224 0225 0273 1721",
    ),
    "SET_OWNER": ("0221 0222 0710 0730", "0201..0206"),
    "RESET_OWNER": ("0230 0763 0773 1420", "1408"),
    "SET_MEM_TABLE": ("0301..0351 0702 0722 1604", "0301..0320 0705"),
    "SET_LOG_BASE": ("0745 0801 0809 0814 0816 1780 1812 1813 1824", "0801..0804 0811..0814"),
    "SET_LOG_FD": ("0762 0772 0815 1814", ""),
    "SET_VRING_NUM": ("0121 0131 0420..0426 0703 0723 1711..1714", "0401 0404 0417"),
    "SET_VRING_ADDR": (
        "0123 0133 0705 0725 0754 0811 1716..1718 1923",
        "0310..0312 0403 0405..0408 0422 0423",
    ),
    "SET_VRING_BASE": ("0122 0132 0430..0433 0612 0704 0724 1715", "0402 0602..0609"),
    "GET_VRING_BASE": ("0404..0409 0601..0621 0743 1110 1904 1905", "0411..0416 0601 0603..0605"),
    "SET_VRING_KICK": (
        "0416 0507 0509 0513 0706 0726 1701 1721 1750..1753 1827 2014",
        "0414 0501 0504 0507 0706",
    ),
    "SET_VRING_CALL": ("0501..0513 0707 0727 1702 1722 1755 1806", "0415 0420 0502 0505 0508 0707"),
    "SET_VRING_ERR": ("0511 0708 0728 1703 1770 1807 1828", "0503 0506 0509 0520 0521"),
    "GET_PROTOCOL_FEATURES": ("0202 0203 0233 0742", "0208 0220"),
    "SET_PROTOCOL_FEATURES": ("0227..0229 0761 0771", "0208 0214 0215 0220"),
    "GET_QUEUE_NUM": ("0744 1101 1102 1124 2401", "0230 1101..1105"),
    "SET_VRING_ENABLE": (
        "0124 0134 0410..0412 0417..0419 0709 0729 1719 1917 2012",
        "0221 0222 0409 0410 0418 0421 0708",
    ),
    "SEND_RARP": ("0764 0774 2290..2296 2402", "0231 0251"),
    "NET_SET_MTU": ("2280..2289 2403 2859..2864", "0232 0252"),
    "SET_BACKEND_REQ_FD": ("0765 0775 1301..1317 1825 2404", "0233 0253 1301 1302"),
    "IOTLB_MSG": ("2405 2433 2444 2445", ""),
    "SET_VRING_ENDIAN": ("2406 2432 2440..2443", "0234 0254"),
    "GET_CONFIG": ("0901..0956 1919 2407", "0901..0907 1321"),
    "SET_CONFIG": ("0960..0991 2408", "0904 0908 0909"),
    "CREATE_CRYPTO_SESSION": ("2409 2446", "0235 0255"),
    "CLOSE_CRYPTO_SESSION": ("2410 2447", "0235 0255"),
    "POSTCOPY_ADVISE": ("1601 1602 1611 1829 2411", "0236 0256"),
    "POSTCOPY_LISTEN": ("1603 1613 1614 2412", "0236 0256"),
    "POSTCOPY_END": ("1605 1609 1615 1617 2413", "0236 0256"),
    "GET_INFLIGHT_FD": ("1201..1210 1261..1263 1815 2414", "1201 1206 1209"),
    "SET_INFLIGHT_FD": ("0766 0776 1211..1260 1816 1817 2415", "1202..1205 1207 1208 1731"),
    "GPU_SET_SOCKET": ("2416 2431 2451", ""),
    "RESET_DEVICE": ("0768 0778 1401..1413 2417", "0239 0259 1406 1407"),
    "VRING_KICK": ("2418 2435 2448", "0240 0260"),
    "GET_MAX_MEM_SLOTS": ("1001..1003 1043 1054 1059 2419", "0241 1001 1009"),
    "ADD_MEM_REG": (
        "1004..1022 1030..1049 1059 1616 1818 1819 2420",
        "1002..1005 1007 1008 1010 1011",
    ),
    "REM_MEM_REG": ("1004 1017..1029 1032 1033 1818..1820 2421", "1006 1016 1017"),
    "SET_STATUS": ("0767 0777 1432..1438 1440..1446 2422", "1401..1405"),
    "GET_STATUS": ("1430..1437 2423", "0242 0262"),
    "GET_SHARED_OBJECT": ("2424 2434 2449", "0243 0263 1338 1342"),
    "SET_DEVICE_STATE_FD": ("1501..1534 2425", "1501..1505"),
    "CHECK_DEVICE_STATE": ("1504 1511 1515 1527 1528 2426", "1505"),
    "GET_SHMEM_CONFIG": ("2427 2450", "0245 0265"),
    "GET_VRING_BASE_SKIP_DRAIN": ("2428 1281", "0246 0266 0610"),
}
#: By message: what covers it for back-ends, which send it, and for front-ends, which answer it.
BACK_END_MESSAGES: dict[str, tuple[str | NotFromOutside, str | NotFromOutside]] = {
    "IOTLB_MSG": (_NO_PROVOKING, "1390"),
    "CONFIG_CHANGE_MSG": (_NO_PROVOKING, "1320 1321 1330 1333..1335"),
    "VRING_HOST_NOTIFIER_MSG": (_NO_PROVOKING, "1304 1311"),
    "VRING_CALL": ("2448", "1326"),
    "VRING_ERR": (_NO_PROVOKING, "1327"),
    "SHARED_OBJECT_ADD": (_NO_PROVOKING, "1392"),
    "SHARED_OBJECT_REMOVE": (_NO_PROVOKING, "1306 1313 1340 1341"),
    "SHARED_OBJECT_LOOKUP": (_NO_PROVOKING, "1325 1337 1339"),
    "SHMEM_MAP": (_NO_PROVOKING, "1391"),
    "SHMEM_UNMAP": (_NO_PROVOKING, "1305 1312"),
}
#: By protocol feature: cases for back-ends and for front-ends.
FEATURES: dict[str, tuple[str | NotFromOutside, str | NotFromOutside]] = {
    "MQ": ("1101..1127", "0230 0250 1101..1105"),
    "LOG_SHMFD": ("0220 0801..0828", "0801 0802 0811..0814"),
    "RARP": ("2290..2296", "0231 0251"),
    "REPLY_ACK": ("0227 0701..0778", "0701..0710"),
    "NET_MTU": ("2280..2289 2859..2864", "0232 0252"),
    "BACKEND_REQ": ("1301..1317", "0233 0253 1301..1336"),
    "CROSS_ENDIAN": ("2440..2443", "0234 0254"),
    "CRYPTO_SESSION": ("2446 2447", "0235 0255"),
    "PAGEFAULT": ("1601..1617", "0236 0256"),
    "CONFIG": ("0901..0998", "0237 0257 0901..0907"),
    "BACKEND_SEND_FD": (
        "0211",
        NotFromOutside("the suite's back-end sends no descriptor on the channel"),
    ),
    "HOST_NOTIFIER": ("0212", "1304 1311"),
    "INFLIGHT_SHMFD": ("1201..1275", "0238 0258 1201..1209 1731"),
    "RESET_DEVICE": ("1401..1413", "0239 0259 1406 1407"),
    "INBAND_NOTIFICATIONS": ("0210 0229 2448", "0240 0260 0270 1326 1327"),
    "CONFIGURE_MEM_SLOTS": ("1001..1059", "0241 0261 1001..1011"),
    "STATUS": ("1430..1446", "0242 0262 1401..1405"),
    "XEN_MMAP": (
        NotFromOutside("needs a Xen host, whose devices the descriptors are"),
        NotFromOutside("needs a Xen host, whose devices the descriptors are"),
    ),
    "SHARED_OBJECT": ("2449", "0243 0263 1325 1337..1342 1392"),
    "DEVICE_STATE": ("1501..1535", "0244 0264 1501..1506"),
    "GET_VRING_BASE_INFLIGHT": ("0213 1280", "0271"),
    "GPA_ADDRESSES": ("2452", "0321..0324"),
    "SHMEM": ("2427 2450", "0245 0265 1305 1312 1391"),
    "GET_VRING_BASE_SKIP_DRAIN": ("0214 1281 1282 2428", "0246 0266 0274 0275 0610"),
}

front_end_messages = Chapter("front_end_message", "Messages of the front-end", "")
back_end_messages = Chapter("back_end_message", "Messages of the back-end", "")
features = Chapter("feature", "Protocol features", "Protocol features")


def _text(row: MessageSpec) -> str:
    """The sentence of a row."""
    payload = " or ".join(form.__name__ for form in row.payload) or "no payload"
    return (
        f"{row.name}: {payload}, descriptors: {row.fds.value}, "
        f"a reply {row.reply.value}; needs: {row.gate}"
    )


def _message_rules() -> None:
    for number, row in sorted(FRONTEND_MESSAGES.items()):
        back, front = FRONT_END_MESSAGES[row.name]
        own = f"{_PAYLOADS + number:04}"
        front_end_messages.rule(
            number,
            _text(row),
            source=row.source or f"VHOST_USER_{row.name}",
            back=back,
            front=f"{own} {front}".strip(),
        )
    for number, row in sorted(BACKEND_MESSAGES.items()):
        sender, receiver = BACK_END_MESSAGES[row.name]
        back_end_messages.rule(
            number,
            _text(row),
            source=row.source or f"VHOST_USER_BACKEND_{row.name}",
            back=sender,
            front=receiver,
        )


def _feature_rules() -> None:
    for name, mask in ProtocolFeature.__members__.items():
        bit = mask.bit_length() - 1
        sender, receiver = FEATURES[name]
        features.rule(bit, f"Bit {bit} is {name}", back=sender, front=receiver)
    features.rule(
        90,
        "A feature that is not offered is not negotiated",
        back="0226 0228",
        front="0213..0219 0223 0273 0230..0266",
    )
    features.rule(
        91,
        "A feature is neither offered nor negotiated without those that it depends on",
        back="0210..0214 0229",
        front="0270 0271 0274 0275",
    )
    features.rule(
        92,
        "The offered features do not change, and may be read at any time",
        back="0201..0204 0225 0231 0232",
        front="0207 0208",
    )
    features.rule(
        93,
        "Bit 30 announces protocol features",
        source="VHOST_USER_F_PROTOCOL_FEATURES",
        back="0202 0223 0224 0233",
        front="0220..0223",
    )
    features.rule(94, "VIRTIO_F_VERSION_1 is offered", source="virtio 1.3, 6.1", back="0205")
    features.rule(
        95,
        "VIRTIO_F_VERSION_1 is accepted where it is offered",
        source="virtio 1.3, 6.1",
        front="0224",
    )


_message_rules()
_feature_rules()
