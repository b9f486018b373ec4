"""The scripts of installed front-ends: each is run, and its messages are those of its script."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.peers.programs import Running, need, pmd_front_end, prefix
from vhost_user.features import SPEC, VHOST_F_LOG_ALL
from vhost_user_conformance.back_end.front_ends import SCRIPTS
from vhost_user_conformance.back_end.script import (
    EVERY,
    USED,
    F,
    P,
    messages_of,
)
from vhost_user_conformance.front_end.acts import CONT, LOG, START, STOP
from vhost_user_conformance.front_end.recording import NAMES
from vhost_user_conformance.front_end.runner import FrontEndRunner
from vhost_user_conformance.front_end.script import PLAIN
from vhost_user_conformance.front_end.session import Session
from vhost_user_conformance.model.device_class import row_of
from vhost_user_conformance.peer.program import PeerProgram
from vhost_user_conformance.peer.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from vhost_user_conformance.back_end.script import Part, ScriptMessage
    from vhost_user_conformance.front_end.recording import Received, Recording
    from vhost_user_conformance.front_end.script import Script as BackEndScript

pytestmark = pytest.mark.peer

QEMU = (
    "qemu-system-x86_64 -m 256 -nodefaults -nographic -machine q35,memory-backend=m "
    "-object memory-backend-memfd,id=m,size=256M,share=on "
    "-qmp unix:{qmp},server=on,wait=off -chardev socket,id=c,path={socket} "
)
DISK = QEMU + "-device vhost-user-blk-pci,chardev=c,bootindex=0,num-queues=2"
NIC = QEMU + "-netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n,bootindex=0"
#: Seconds for testpmd to start, and to send its messages.
TIMEOUT = 20.0
QUIET = 0.5
#: VIRTIO_NET_F_GUEST_CSUM: virtio-user negotiates again when it changes.
GUEST_CSUM = 1 << 1


class Line(NamedTuple):
    """The part of a message that is compared."""

    name: str
    ring: int | None
    need_reply: bool
    value: int


def in_script(planned: ScriptMessage) -> Line:
    """The messages of the script."""
    return Line(
        planned.step.id.name, planned.ring, planned.need_reply, planned.step.num or planned.step.log
    )


def came(message: Received) -> Line:
    """The messages of the program."""
    values = {
        F.SET_VRING_ENABLE: message.state.num,
        F.SET_STATUS: message.u64,
        F.SET_VRING_ADDR: message.address.flags,
        F.SET_FEATURES: message.u64 >> VHOST_F_LOG_ALL & 1,
    }
    value = values.get(F(message.id), 0)
    return Line(message.name, message.ring, message.need_reply, value)


def settled(lines: Iterable[Line]) -> list[Line]:
    """Without repeated SET_VRING_ENABLE: their number depends on the guest of a NIC."""
    whole: list[Line] = []
    sent: set[Line] = set()
    for line in lines:
        if line.name != "SET_VRING_ENABLE":
            sent.clear()
        elif line in sent:
            continue
        else:
            sent.add(line)
        whole.append(line)
    return whole


def check(
    recording: Recording, acts: Mapping[str, Sequence[Part]], rings: Mapping[str, Sequence[int]]
) -> None:
    """The messages of each act are those of the script; of a repeated act, the first time."""
    negotiated = P(recording.messages[-1].protocol)
    messages = recording.messages
    for act, parts in acts.items():
        first = next(each.at for each in messages if each.act == act)
        later = [each.at for each in messages if each.at > first and each.act != act]
        seen = settled(came(each) for each in messages[first : min(later, default=None)])
        wanted = settled(
            map(in_script, messages_of(parts, rings, negotiated=negotiated, bit_30=True))
        )
        assert seen == wanted, act


def play(folder: Path, command: str, device: str, script: BackEndScript) -> Recording:
    """A session with QEMU: its firmware is the guest."""
    need("qemu-system-x86_64", "qemu-system-x86")
    path, qmp = folder / "s", folder / "q"
    program = PeerProgram(command, path, folder / "log", qmp=qmp, listens=False)
    runner = FrontEndRunner(path, program, qmp=qmp, device=device, dialect=SPEC, timeout=2.0)
    try:
        return runner.record(script)
    finally:
        runner.close()


OFFERS = pytest.mark.parametrize(
    ("offering", "without"),
    [(P(0), P(0)), (P.STATUS | P.CONFIGURE_MEM_SLOTS, P(0)), (P(0), P.REPLY_ACK | P.MQ)],
    ids=["plain", "with STATUS and slots", "without REPLY_ACK and MQ"],
)


@OFFERS
def test_qemu_with_a_disk(tmp_path: Path, offering: P, without: P) -> None:
    """Two rings, of which the firmware uses one."""
    script = SCRIPTS[0]
    offers = PLAIN._replace(protocol_offering=int(offering), protocol_without=int(without))
    command = DISK.replace("num-queues=2", "num-queues=1") if P.MQ in without else DISK
    recording = play(tmp_path, command, "blk", offers)
    acts = {
        START: (*script.setup, *script.start),
        STOP: script.stop,
        CONT: script.restart,
        # The migration stops the device at its end.
        LOG: (*script.log, *script.stop),
    }
    check(recording, acts, {USED: [0], EVERY: [0] if P.MQ in without else [0, 1]})


@OFFERS
def test_qemu_with_a_nic(tmp_path: Path, offering: P, without: P) -> None:
    """One pair of rings."""
    script = SCRIPTS[1]
    offers = PLAIN._replace(protocol_offering=int(offering), protocol_without=int(without))
    recording = play(tmp_path, NIC, "net", offers)
    acts = {
        START: (*script.setup, *script.start),
        STOP: script.stop,
        CONT: script.restart,
        LOG: (*script.log, *script.stop),
    }
    check(recording, acts, {USED: [0, 1], EVERY: [0, 1]})


@pytest.mark.parametrize("offering", [P(0), P.STATUS], ids=["plain", "with STATUS"])
def test_dpdk_virtio_user(tmp_path: Path, offering: P) -> None:
    """One pair of rings; it stops and starts them when its offloads change."""
    script = SCRIPTS[6]
    path = tmp_path / "s"
    offers = PLAIN._replace(protocol_offering=int(offering), offering=GUEST_CSUM)
    argv = pmd_front_end(path, queues=1, prefix=prefix(tmp_path))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(TIMEOUT)
        with Running(argv, tmp_path / "log") as program:
            session = Session(Wire(listener.accept()[0], NAMES, 2.0), offers, row_of("net"))
            try:
                _drive(session, program)
            finally:
                session.close()
    acts = {
        START: (*script.setup, *script.start),
        CONT: (*script.stop, *script.restart),
        STOP: script.stop,
    }
    check(session.recording, acts, {USED: [0, 1], EVERY: [0, 1]})


def _drive(session: Session, program: Running) -> None:
    """Start, reconfigure and close; each act ends when no more messages arrive."""
    stdin = program.process.stdin
    assert stdin is not None

    def enabled() -> bool:
        return len(session.recording.of(F.SET_VRING_ENABLE, act=session.act)) > 1

    def perform(act: str, *commands: str) -> None:
        session.act = act
        stdin.write("".join(f"{each}\n" for each in commands).encode())
        stdin.flush()
        done = session.pump(lambda: enabled() and session.quiet(QUIET), TIMEOUT)
        assert done or session.over, program.output

    perform(START)
    perform(CONT, "stop", "port stop 0", "port config 0 rx_offload udp_cksum on", "port start 0")
    perform(STOP, "port stop 0", "port close 0", "quit")
