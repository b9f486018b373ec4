"""Cases about features that our back-ends and most others do not offer: both verdicts of each."""

from __future__ import annotations

import json
import os
import shlex
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.timeouts import PROGRAM_TIMEOUT
from tests.vhost_user_conformance.puppet import Answer, Puppet
from vhost_user.features import (
    SPEC,
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_IOMMU_PLATFORM,
    VIRTIO_F_VERSION_1,
    ProtocolFeature,
)
from vhost_user.messages import FrontendRequest as F
from vhost_user_conformance.model.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

PASS, FAIL, OBSERVED = Verdict.PASS, Verdict.FAIL, Verdict.OBSERVED
BITS = 1 << VIRTIO_F_VERSION_1 | 1 << VHOST_USER_F_PROTOCOL_FEATURES | 1 << VIRTIO_F_IOMMU_PLATFORM
NIC_BITS = BITS | 1 << 3 | 1 << 5 | 1 << 22
CONFIG = ProtocolFeature.CONFIG | ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK
PROGRAM = Path(__file__).with_name("optional_device.py")

#: A NIC's configuration: address, status, pairs, MTU.
NIC = struct.Struct("<6sHHH")
MAC = bytes.fromhex("02c04f4d0001")


def space(data: bytes, *, offsets: bool = True, limit: bool = True) -> Callable[[bytes], Answer]:
    """GET_CONFIG from these bytes, with mistakes where asked for."""

    def answer(payload: bytes) -> Answer:
        offset, size, flags = struct.unpack_from("=III", payload)
        if limit and offset + size > 256:
            return b"", ()
        at = offset if offsets else 0
        return struct.pack("=III", offset, size, flags) + data.ljust(256, b"\0")[at : at + size], ()

    return answer


def number(value: int) -> Callable[[bytes], Answer]:
    """A reply of one number."""
    return lambda _payload: (value.to_bytes(8, "little"), ())


def nic(mac: bytes = MAC, pairs: int = 2, mtu: int = 1500) -> dict[int, Callable[[bytes], Answer]]:
    """A NIC's answers."""
    return {F.GET_CONFIG: space(NIC.pack(mac, 0, pairs, mtu)), F.GET_QUEUE_NUM: number(2)}


@pytest.mark.parametrize(
    ("case", "answers", "verdict"),
    [
        (995, nic(), PASS),
        (995, nic(mac=bytes(6)), FAIL),
        (995, nic(mac=b"\x01" + MAC[1:]), FAIL),
        (996, nic(), PASS),
        (996, nic(pairs=3), FAIL),
        (996, nic(pairs=0), FAIL),
        (997, nic(), PASS),
        (997, nic(mtu=67), FAIL),
        (910, nic(), PASS),
        (910, {**nic(), F.GET_CONFIG: space(MAC, offsets=False)}, FAIL),
        (913, {**nic(), F.GET_CONFIG: space(MAC, offsets=False)}, FAIL),
        (920, nic(), PASS),
        (923, {**nic(), F.GET_CONFIG: space(MAC, offsets=False, limit=False)}, FAIL),
        (901, {**nic(), F.GET_CONFIG: lambda payload: (payload[:-1], ())}, FAIL),
        (901, {**nic(), F.GET_CONFIG: lambda _payload: (b"", ())}, FAIL),
        (934, {**nic(), F.GET_CONFIG: space(MAC, limit=False)}, OBSERVED),
        (961, nic(), PASS),
    ],
)
def test_a_nic_s_configuration(
    case: int, answers: dict[int, Callable[[bytes], Answer]], verdict: Verdict
) -> None:
    """Each field, valid and invalid."""
    got, seen = Puppet(NIC_BITS, int(CONFIG), answers).judge(case, "net")
    assert got == verdict, seen
    assert "no message within" not in seen


@pytest.mark.parametrize("case", [960, 961])
def test_fields_of_an_unknown_device(case: int) -> None:
    """Some fields are driver-writable: such a back-end has not broken a rule."""
    assert Puppet(NIC_BITS, int(CONFIG), nic()).judge(case, "")[0] == Verdict.UNSUPPORTED
    got, _ = Puppet(NIC_BITS, int(CONFIG), nic()).judge(case, "net")
    assert got == (FAIL if case == 960 else PASS)


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"tag".ljust(36, b"\0") + b"\x01\0\0\0", PASS),
        (bytes(36) + b"\x01\0\0\0", FAIL),
        (b"tag".ljust(40, b"\0"), FAIL),
    ],
)
def test_a_file_system_s_configuration(data: bytes, verdict: Verdict) -> None:
    """A tag, and queues."""
    answers: dict[int, Callable[[bytes], Answer]] = {
        F.GET_CONFIG: space(data),
        F.GET_QUEUE_NUM: number(2),
    }
    got, seen = Puppet(BITS, int(CONFIG), answers).judge(998, "fs")
    assert got == verdict, seen
    assert "no message within" not in seen


def shmem(*sizes: int, count: int | None = None) -> Callable[[bytes], Answer]:
    """GET_SHMEM_CONFIG's answer."""
    told = len(sizes) if count is None else count
    return lambda _payload: (struct.pack(f"<II{len(sizes)}Q", told, 0, *sizes), ())


@pytest.mark.parametrize(
    ("case", "feature", "answers", "verdict"),
    [
        (2444, "REPLY_ACK", {F.IOTLB_MSG: number(0)}, PASS),
        (2444, "REPLY_ACK", {F.IOTLB_MSG: number(1)}, FAIL),
        (2445, "REPLY_ACK", {F.IOTLB_MSG: number(0)}, PASS),
        (2446, "CRYPTO_SESSION", {F.CREATE_CRYPTO_SESSION: lambda p: (p, ())}, OBSERVED),
        (2447, "CRYPTO_SESSION", {F.CLOSE_CRYPTO_SESSION: number(1)}, PASS),
        (2447, "CRYPTO_SESSION", {F.CLOSE_CRYPTO_SESSION: number(0)}, OBSERVED),
        (2442, "CROSS_ENDIAN", {F.SET_VRING_ENDIAN: number(1)}, PASS),
        (2442, "CROSS_ENDIAN", {F.SET_VRING_ENDIAN: number(0)}, OBSERVED),
        (2449, "SHARED_OBJECT", {F.GET_SHARED_OBJECT: lambda p: (p, ())}, PASS),
        (2449, "SHARED_OBJECT", {F.GET_SHARED_OBJECT: lambda p: (p, (0,))}, FAIL),
        (2450, "SHMEM", {F.GET_SHMEM_CONFIG: shmem()}, PASS),
        (2450, "SHMEM", {F.GET_SHMEM_CONFIG: shmem(4096, 0, 8192, count=2)}, PASS),
        (2450, "SHMEM", {F.GET_SHMEM_CONFIG: shmem(4096, count=2)}, FAIL),
        (2450, "SHMEM", {F.GET_SHMEM_CONFIG: lambda _p: (bytes(7), ())}, FAIL),
    ],
)
def test_messages_that_hardly_anybody_serves(
    case: int, feature: str, answers: dict[int, Callable[[bytes], Answer]], verdict: Verdict
) -> None:
    """Each of them, valid and invalid."""
    mask = SPEC.protocol_feature(feature)
    assert mask is not None
    offered = int(mask | ProtocolFeature.REPLY_ACK)
    got, seen = Puppet(BITS, offered, answers).judge(case, "")
    assert got == verdict, seen
    assert "no message within" not in seen


@pytest.mark.parametrize("case", [340, 341, 342, 343, 753])
@pytest.mark.parametrize(
    ("code", "last", "verdict"),
    [
        (0, None, FAIL),
        (0, F.SET_MEM_TABLE, OBSERVED),
        (1, None, PASS),
        (1, F.SET_MEM_TABLE, PASS),
    ],
    ids=["taken for good", "taken, then closed", "refused", "refused, then closed"],
)
def test_a_table_that_cannot_be(case: int, code: int, last: F | None, verdict: Verdict) -> None:
    """A back-end that closes the connection has not continued, whatever it acknowledged before."""
    puppet = Puppet(
        BITS, int(ProtocolFeature.REPLY_ACK), {F.SET_MEM_TABLE: number(code)}, last=last
    )
    assert puppet.judge(case, "blk")[0] is verdict


def state_verdicts(folder: Path, mistake: str) -> dict[str, str]:
    """Verdicts on a disk that offers what ours does not, and makes this mistake."""
    image = folder / "disk.img"
    with image.open("wb") as file:
        file.truncate(1 << 20)
    program = f"{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAM))} --socket-path {{socket}}"
    command = f"{program} --num-queues 4 --blk-file {shlex.quote(str(image))}"
    argv = [sys.executable, "-m", "emu.cli", "conform", "back-end", "--device", "blk"]
    argv += ["--exec", command, "--only", "device_state", "--json", "-", "--patience", "1"]
    numbers = ("0214", "1280", "1281", "1282", *range(2440, 2444), "2452")
    argv += [word for number in numbers for word in ("--only", f"VU-B-{number}")]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        timeout=PROGRAM_TIMEOUT,
        check=False,
        env={**os.environ, "MISTAKE": mistake},
    )
    whole: dict[str, Any] = json.loads(done.stdout)
    return {case["id"]: case["verdict"] for case in whole["cases"]}


def test_a_device_whose_state_can_be_moved(tmp_path: Path) -> None:
    """Nothing is unsupported, and nothing fails."""
    verdicts = state_verdicts(tmp_path, "")
    assert set(verdicts.values()) == {"PASS", "OBSERVED"}
    assert list(verdicts.values()).count("PASS") >= 30


@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        pytest.param("descriptor with an error", 1523, marks=pytest.mark.slow),
        ("bit 8 clear", 1501),
        pytest.param("no end", 1503, marks=pytest.mark.slow),
        ("loads a part", 1511),
        pytest.param("loads nothing", 1505, marks=pytest.mark.slow),
        ("base forgotten", 1281),
        ("user addresses only", 2452),
    ],
)
def test_a_mistake_is_found(mistake: str, case: int, tmp_path: Path) -> None:
    """The case about it fails."""
    assert state_verdicts(tmp_path, mistake)[f"VU-B-{case}"] == "FAIL"
