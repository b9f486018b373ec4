"""QEMU's command, and what is said where it cannot be run."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import os
import platform
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.qemu_baseline import qemu_vm
from bench.qemu_baseline.qemu_vm import MAX_DEVICES, MAX_VCPUS, Qemu
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import EmuError, OptionError
from emu.orchestrator.signals import SignalWatcher

if TYPE_CHECKING:
    from collections.abc import Sequence

SPEC = VmSpec(1, 256 << 20, (DeviceGroup("net", 8, 4), DeviceGroup("blk", 3, 2)))
COMMAND = (qemu_vm.PROGRAM,)
SOCKETS = {device.name: f"/run/{device.name}.sock" for device in SPEC.devices}


def argv(accel: str = "kvm", incoming: str = "") -> list[str]:
    qemu = Qemu(("sh", "qemu"), "7.2", Path("/guest.elf"), accel)
    return qemu.argv(SPEC, SOCKETS, qmp_fd=9, incoming=incoming)


def values(words: Sequence[str], option: str) -> list[str]:
    return [value for word, value in pairwise(words) if word == option]


def test_each_device_has_a_place_of_its_own_and_its_back_end() -> None:
    words = argv()
    devices = [
        dict(part.partition("=")[::2] for part in v.split(",")) for v in values(words, "-device")
    ]
    assert len({device["addr"] for device in devices}) == len(devices) == 11
    assert [device["addr"] for device in devices[6:10]] == ["1.6", "1.7", "2.0", "2.1"]
    assert [value.rpartition("=")[2] for value in values(words, "-chardev")[1:]] == list(
        SOCKETS.values()
    )
    assert values(words, "-netdev")[0] == "vhost-user,id=net-net0,chardev=net0,queues=2"
    assert "virtio-net-pci,netdev=net-net0,mq=on,vectors=6," in values(words, "-device")[0]
    assert "vhost-user-blk-pci,chardev=blk0,num-queues=2," in values(words, "-device")[8]


def test_a_nic_has_no_vectors_with_tcg() -> None:
    assert all(",vectors=0," in value for value in values(argv("tcg"), "-device")[:8])


def test_memory_is_shared_and_the_vm_may_be_incoming() -> None:
    words = argv(incoming="unix:/stream")
    assert values(words, "-object") == ["memory-backend-memfd,id=memory,size=256M,share=on"]
    assert values(words, "-incoming") == ["unix:/stream"]
    assert values(argv(), "-incoming") == []


def test_a_guest_starts_some_vcpus() -> None:
    qemu_vm.check_shape(VmSpec(MAX_VCPUS, 256 << 20))
    with pytest.raises(OptionError, match=f"{MAX_VCPUS} at most"):
        qemu_vm.check_shape(VmSpec(MAX_VCPUS + 1, 256 << 20))


def test_a_bus_has_room_for_some_devices() -> None:
    qemu_vm.check_shape(VmSpec(1, 256 << 20, (DeviceGroup("blk", MAX_DEVICES, 1),)))
    with pytest.raises(OptionError, match=f"room for {MAX_DEVICES}"):
        qemu_vm.check_shape(VmSpec(1, 256 << 20, (DeviceGroup("blk", MAX_DEVICES + 1, 1),)))


def test_without_qemu_there_is_a_reason(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert qemu_vm.missing(COMMAND).startswith("qemu-system-x86_64 is not installed (Debian: ")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert qemu_vm.missing(COMMAND) == "the guest is x86-64 code, and this host is aarch64"
    with SignalWatcher() as watcher, pytest.raises(EmuError, match="cannot be read"):
        qemu_vm.find(COMMAND, "auto", tmp_path, watcher)


def test_a_guest_that_does_not_run_names_each_accelerator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here QEMU is a program that prints its version only."""
    if platform.machine() != "x86_64":
        pytest.skip("the guest is x86-64 code")
    program = tmp_path / qemu_vm.PROGRAM
    program.write_text("#!/bin/sh\necho QEMU emulator version 1.2.3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with SignalWatcher() as watcher, pytest.raises(EmuError) as caught:
        qemu_vm.find(COMMAND, "auto", tmp_path, watcher)
    assert [part.partition(":")[0] for part in str(caught.value).split("; ")] == [
        "QEMU does not run the guest with kvm",
        "QEMU does not run the guest with tcg",
    ]


@pytest.mark.parametrize(
    ("compiler", "text"), [("/none/cc", "/none/cc"), ("false", "cannot be compiled")]
)
def test_a_guest_that_cannot_be_compiled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, compiler: str, text: str
) -> None:
    program = tmp_path / qemu_vm.PROGRAM
    program.write_text("#!/bin/sh\necho QEMU emulator version 1.2.3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CC", compiler)
    with SignalWatcher() as watcher, pytest.raises(EmuError, match=text):
        qemu_vm.find(COMMAND, "auto", tmp_path, watcher)
