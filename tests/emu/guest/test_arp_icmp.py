"""ARP and ICMP echo: the codec, and the replies of the guest's driver."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from emu.guest.arp_icmp import (
    CLIENT_ADDRESS,
    ECHO_DATA,
    GUEST_ADDRESS,
    Echo,
    answer,
    arp_reply,
    arp_request,
    checksum,
)
from emu.guest.frames import BROADCAST, MIN_FRAME, nic_mac
from tests.emu.guest.small_machine import small_spec

if TYPE_CHECKING:
    from tests.emu.guest.conftest import MakeGuest

OUTSIDE = b"\x02\0\0\0\0\1"
MAC = nic_mac(0)
PING = Echo(MAC, OUTSIDE, GUEST_ADDRESS, CLIENT_ADDRESS, 7, 65535, b"eighteen bytes now")


def test_checksum_is_that_of_rfc_1071() -> None:
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2
    assert checksum(b"\x01") == 0xFEFF


def test_an_echo_round_trips() -> None:
    wire = PING.pack()
    assert len(wire) == MIN_FRAME
    assert len(PING.data) == ECHO_DATA
    assert wire[12:24].hex() == "08004500002e000000004001"
    assert wire[26:34] == CLIENT_ADDRESS + GUEST_ADDRESS
    assert checksum(wire[14:34]) == checksum(wire[34:]) == 0
    assert Echo.parse(wire) == PING


def test_the_reply_goes_back_with_the_same_data() -> None:
    reply = answer(PING.pack(), MAC, GUEST_ADDRESS)
    assert reply is not None
    assert Echo.parse(reply) == Echo(
        OUTSIDE, MAC, CLIENT_ADDRESS, GUEST_ADDRESS, 7, 65535, PING.data, is_reply=True
    )
    assert answer(reply, MAC, CLIENT_ADDRESS) is None, "a reply is not answered"


@pytest.mark.parametrize("place", [14, 17, 20, 23, 30, 34, 35, 40, 59])
def test_damaged_echoes_are_not_answered(place: int) -> None:
    wire = bytearray(PING.pack())
    wire[place] ^= 0x21
    assert answer(wire, MAC, GUEST_ADDRESS) is None


@pytest.mark.parametrize("length", [0, 13, 14, 33, 41, 59])
def test_frames_that_are_cut_off_are_not_answered(length: int) -> None:
    assert answer(PING.pack()[:length], MAC, GUEST_ADDRESS) is None


def test_echoes_for_others_and_long_ones_are_not_answered() -> None:
    assert answer(PING._replace(to=CLIENT_ADDRESS).pack(), MAC, GUEST_ADDRESS) is None
    assert answer(PING._replace(destination=OUTSIDE).pack(), MAC, GUEST_ADDRESS) is None
    assert answer(PING._replace(data=b"x" * 56).pack(), MAC, GUEST_ADDRESS) is None


def test_arp() -> None:
    request = arp_request(OUTSIDE, CLIENT_ADDRESS, GUEST_ADDRESS)
    assert request[:14] == BROADCAST + OUTSIDE + b"\x08\x06"
    assert arp_reply(request) is None
    reply = answer(request[:42], MAC, GUEST_ADDRESS)
    assert reply is not None
    assert reply[:6] == OUTSIDE
    assert arp_reply(reply) == (GUEST_ADDRESS, MAC)
    assert answer(request, MAC, CLIENT_ADDRESS) is None
    assert answer(reply, MAC, GUEST_ADDRESS) is None


def test_the_guest_answers_on_its_first_nic_only(make_guest: MakeGuest) -> None:
    guest = make_guest(small_spec(blk=""))
    request = arp_request(OUTSIDE, CLIENT_ADDRESS, GUEST_ADDRESS)
    for nic in (0, 1):
        for wire in (request[:42], request, PING.pack(), b"\0" * 14, b"short"):
            for vector in guest.devices.deliver(nic, 0, wire):
                guest.program.interrupt(0, vector)
    guest.run(50)
    replies = guest.devices.outside
    assert [arp_reply(wire) for wire in replies[:2]] == [(GUEST_ADDRESS, MAC)] * 2
    assert len(replies) == 3
    echo = Echo.parse(replies[2])
    assert echo is not None
    assert echo.is_reply
    assert echo.data == PING.data
    assert guest.program.request_log().probes_answered == 3
