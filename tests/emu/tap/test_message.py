"""A decoded message: its names, fields and times."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.emu.tap.talk import TICK, F, Talk
from vhost_user.codec import NEED_REPLY, VERSION
from vhost_user.messages import BackendRequest
from vhost_user.payloads import (
    U64,
    Config,
    MemoryRegion,
    MemTable,
    ShmemConfig,
    SingleRegion,
    VringState,
)

if TYPE_CHECKING:
    from vhost_user.payload_layout import Payload

REGION = MemoryRegion(0x1000, 0x2000, 0x3000, 0)
FIELDS = {"gpa": "0x1000", "size": "0x2000", "user_addr": "0x3000", "mmap_offset": "0x0"}


@pytest.mark.parametrize(
    ("number", "payload", "fields"),
    [
        (F.GET_FEATURES, None, {}),
        (F.SET_FEATURES, U64(0x40000000), {"value": "0x40000000"}),
        (F.SET_VRING_NUM, VringState(3, 256), {"ring": 3, "num": 256}),
        (F.SET_MEM_TABLE, MemTable((REGION,)), {"regions": [FIELDS]}),
        (F.ADD_MEM_REG, SingleRegion(REGION), FIELDS),
        (F.SET_CONFIG, Config(8, 1, b"\1\2"), {"offset": "0x8", "flags": "0x1", "data": "0102"}),
    ],
)
def test_fields(number: F, payload: Payload | None, fields: dict[str, Any]) -> None:
    talk = Talk()
    talk.ask(number, payload)
    assert talk.messages[0].fields == fields


def test_fields_of_a_reply() -> None:
    talk = Talk()
    talk.ask(F.GET_SHMEM_CONFIG)
    talk.answer(F.GET_SHMEM_CONFIG, ShmemConfig(1, (0, 4096)))
    assert talk.messages[1].fields == {"num_regions": 1, "sizes": [0, 4096]}
    assert talk.messages[1].latency == TICK


def test_names_are_those_of_the_specification() -> None:
    talk = Talk()
    talk.ask(F.GET_VRING_BASE, VringState(0, 0), flags=VERSION | NEED_REPLY)
    talk.ask(BackendRequest.CONFIG_CHANGE_MSG, on_channel=True)
    talk.ask(99)
    assert [message.full_name for message in talk.messages] == [
        "VHOST_USER_GET_VRING_BASE",
        "VHOST_USER_BACKEND_CONFIG_CHANGE_MSG",
        "VHOST_USER_message 99",
    ]
    assert [message.need_reply for message in talk.messages] == [True, False, False]
