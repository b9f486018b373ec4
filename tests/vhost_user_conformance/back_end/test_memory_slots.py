"""Memory slots: the messages that the cases send, and what their answers must be."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.vhost_user_conformance.puppet import Answer, Puppet
from vhost_user.features import ProtocolFeature
from vhost_user.messages import FrontendRequest as F
from vhost_user.payloads import U64, SingleRegion
from vhost_user_conformance.back_end.connection import PROTOCOL_BIT, BackEnd
from vhost_user_conformance.back_end.memory_slots import add, remove, slots, slotted
from vhost_user_conformance.model.verdict import Failed, Unsupported
from vhost_user_conformance.peer.memory import MIB

if TYPE_CHECKING:
    from collections.abc import Callable

ALL = int(ProtocolFeature.REPLY_ACK | ProtocolFeature.CONFIGURE_MEM_SLOTS)


def back_end(
    answers: dict[int, Callable[[bytes], Answer]] | None = None, protocol: int = ALL
) -> BackEnd:
    """A back-end that accepts everything but what is answered otherwise."""
    puppet = Puppet(PROTOCOL_BIT, protocol, answers or {})
    return puppet.back_end()


def test_each_region_is_added_with_its_file() -> None:
    """In its order, and without a memory table."""
    seen: list[int] = []

    def note(payload: bytes) -> Answer:
        seen.append(SingleRegion.unpack(payload).region.size)
        return bytes(8), ()

    with closing(back_end({F.ADD_MEM_REG: note, F.REM_MEM_REG: note})) as be:
        memory = slotted(be, MIB, 2 * MIB)
        remove(be, memory.regions[0])
    assert seen == [MIB, 2 * MIB, MIB]
    transcript = "\n".join(be.wire.transcript)
    assert "SET_MEM_TABLE" not in transcript


def test_a_slot_that_is_refused_fails_the_case() -> None:
    """Whether it was to be added or removed."""
    refusal: dict[int, Callable[[bytes], Answer]] = {
        number: lambda _: (U64(1).pack(), ()) for number in (F.ADD_MEM_REG, F.REM_MEM_REG)
    }
    with closing(back_end(refusal)) as be:
        memory = slotted(be, MIB, added=False)
        for act in (add, remove):
            with pytest.raises(Failed, match="with 1"):
                act(be, memory.regions[0])


@pytest.mark.parametrize("count", [1, 509])
def test_the_number_of_slots(count: int) -> None:
    """At least one."""
    with closing(back_end({F.GET_MAX_MEM_SLOTS: lambda _: (U64(count).pack(), ())})) as be:
        assert slots(be) == count
    none = back_end({F.GET_MAX_MEM_SLOTS: lambda _: (U64(0).pack(), ())})
    with closing(none) as be, pytest.raises(Failed, match="a slot or more"):
        slots(be)


def test_without_the_feature_the_case_is_unsupported() -> None:
    """Nothing is added."""
    with (
        closing(back_end(protocol=int(ProtocolFeature.REPLY_ACK))) as be,
        pytest.raises(Unsupported),
    ):
        slotted(be, MIB)
