"""A client outside of the VM that pings it through bridges."""
# ruff: noqa: D102, D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from emu.guest.arp_icmp import GUEST_ADDRESS, answer, gratuitous_arp
from emu.guest.frames import nic_mac
from emu.orchestrator.network.echo import CLIENT_MAC
from emu.orchestrator.network.ping import PingClient
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.readiness import readable

if TYPE_CHECKING:
    from emu.orchestrator.network.namespaces import NamespaceNetwork


#: Ethernet types.
IPV4, ARP = 0x0800, 0x0806


class Station:
    """Has the guest's addresses, at the TAP of one host.

    Attributes:
        on: whether it answers.
        seen: the Ethernet types of the client's frames that came while it did.
    """

    def __init__(self, tap: int, *, on: bool) -> None:
        self.on = on
        self.seen: list[int] = []
        self._tap = tap
        self._wake, self._stopper = os.pipe()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while True:
            ready = readable([self._tap, self._wake])
            if self._wake in ready:
                return
            frame = os.read(self._tap, 2048)
            if not self.on:
                continue
            if frame[6:12] == CLIENT_MAC:  # not the bridges' own multicasts
                self.seen.append(int.from_bytes(frame[12:14], "big"))
            reply = answer(frame, nic_mac(0), GUEST_ADDRESS)
            if reply is not None:
                os.write(self._tap, reply)

    def close(self) -> None:
        os.close(self._stopper)
        self._thread.join(TIMEOUT)
        os.close(self._wake)


def await_answers(client: PingClient, count: int) -> None:
    least = client.counts().answered + count
    wait_until(lambda: client.counts().answered >= least, "pings are answered")


@pytest.mark.parametrize("announced", [True, False])
def test_without_an_announcement_the_bridges_send_to_the_old_host(
    network: NamespaceNetwork, announced: bool
) -> None:
    """The client's packets arrive only after its next ARP request."""
    client = PingClient(network)
    before, after = (
        Station(tap, on=on) for tap, on in zip(network.taps, (True, False), strict=True)
    )
    try:
        client.start()
        await_answers(client, 20)
        before.close()
        after.on = True
        if announced:
            os.write(network.taps[1], gratuitous_arp(nic_mac(0), GUEST_ADDRESS))
        await_answers(client, 20)
    finally:
        after.close()
        client.stop()
    assert after.seen[0] == (IPV4 if announced else ARP)
    assert client.counts().duplicated == 0
