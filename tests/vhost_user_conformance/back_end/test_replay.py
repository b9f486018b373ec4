"""The script of a front-end, replayed to our own back-ends."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.connected import connected
from tests.vhost_user_conformance.puppet import Puppet
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd
from vhost_user_conformance.back_end.front_ends import SCRIPTS
from vhost_user_conformance.back_end.replay import Replay
from vhost_user_conformance.back_end.script import F, P, Script, Step
from vhost_user_conformance.model.verdict import Failed, Unsupported

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OF_A_DISK = [script for script in SCRIPTS if "blk" in script.drives]
TINY = Script("tiny", "read: nothing", P.REPLY_ACK, (Step(F.GET_FEATURES),), ())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[BackEnd]:
    """A disk of ours."""
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    with connected(tmp_path, "blk", "--num-queues", "4", "--blk-file", str(image)) as made:
        yield made


@pytest.mark.parametrize("script", OF_A_DISK, ids=str)
def test_a_disk_works_as_each_front_end_starts_it(disk: BackEnd, script: Script) -> None:
    """And after a stop, where the front-end stops it; the base counts its requests."""
    replay = Replay(disk, script)
    replay.setup()
    replay.start()
    disk.serve(replay.working)
    if not script.stop:
        return
    assert replay.stop() == 1
    if script.restart:
        replay.restart()
        disk.serve(replay.working)
        assert replay.stop() == (1 if script.renews else 2)


@pytest.mark.parametrize("script", SCRIPTS, ids=str)
@pytest.mark.parametrize("device", ["blk", "net", "fs", "rng"])
def test_a_device_that_the_front_end_does_not_drive(device: str, script: Script) -> None:
    """The order of a NIC's messages is not that of a disk's, so none of them is sent."""
    if device in script.drives:
        pytest.skip("it drives such a device")
    puppet = Puppet(PROTOCOL_BIT, 0, {})
    with closing(puppet.back_end(device)) as be, pytest.raises(Unsupported, match="not drive"):
        Replay(be, script).setup()
    assert not [line for line in be.wire.transcript if line.startswith(">")]


@pytest.mark.parametrize("features", [0, PROTOCOL_BIT], ids=["no bit 30", "no MQ"])
def test_two_pairs_are_not_set_up_without_mq(features: int) -> None:
    """A NIC that does not offer MQ has one pair of rings."""
    pairs = next(script for script in SCRIPTS if script.least > 2)
    puppet = Puppet(features, int(P.REPLY_ACK), {})
    with closing(puppet.back_end("net")) as be, pytest.raises(Unsupported, match="has 2"):
        Replay(be, pairs).setup()


def scripted(features: int, protocol: int, script: Script) -> BackEnd:
    """A back-end that offers these."""
    puppet = Puppet(features, protocol, {})
    return puppet.back_end()


def test_what_the_back_end_offers_is_learned_from_its_replies() -> None:
    """And only what the front-end knows is negotiated."""
    setup = (
        *(Step(F.GET_FEATURES), Step(F.GET_PROTOCOL_FEATURES)),
        Step(F.SET_PROTOCOL_FEATURES),
    )
    script = TINY._replace(setup=setup)
    with closing(scripted(PROTOCOL_BIT, int(P.REPLY_ACK | P.MQ), script)) as be:
        Replay(be, script).setup()
        assert (be.features, be.protocol, be.acked) == (
            PROTOCOL_BIT,
            P.REPLY_ACK | P.MQ,
            P.REPLY_ACK,
        )


def test_without_what_a_front_end_requires_the_case_is_unsupported() -> None:
    """The front-end would disconnect."""
    script = TINY._replace(requires=P.CONFIG)
    with (
        closing(scripted(PROTOCOL_BIT, 0, script)) as be,
        pytest.raises(Unsupported, match="tiny disconnects without CONFIG"),
    ):
        Replay(be, script).setup()


def test_an_acknowledgement_that_is_not_0_fails() -> None:
    """Of a message that has no reply of its own."""
    puppet = Puppet(0, 0, {F.SET_OWNER: lambda _: ((3).to_bytes(8, "little"), ())})
    script = TINY._replace(setup=(Step(F.SET_OWNER, ack=True),))
    with closing(puppet.back_end()) as be:
        be.acked = P.REPLY_ACK
        with pytest.raises(Failed, match="acknowledged with 3"):
            Replay(be, script).setup()
