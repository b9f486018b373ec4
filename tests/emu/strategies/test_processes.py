"""The pool of processes: what is special about workers that are processes."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import psutil
import pytest

from emu.errors import ProgramError
from emu.strategies import socket_worker as wire
from emu.strategies.processes import Processes, _parts
from tests.emu.migration.hosts import Host, Migration, await_requests, check_request_log
from tests.emu.strategies.test_contract import stage_of, stops

if TYPE_CHECKING:
    from pathlib import Path

    from emu.vm.vm import Vm


def workers() -> list[psutil.Process]:
    """The workers of this process."""
    children = psutil.Process().children()
    return [child for child in children if "emu.strategies.socket_worker" in child.cmdline()]


def test_a_worker_that_ends_is_named_and_the_devices_come_back(vm: Vm) -> None:
    """What it had sent is unknown: the devices of its jobs are connected anew."""
    strategy = Processes(2)
    vm.reconnect.pause()
    vm.pause_vcpus()
    strategy.open()
    try:
        workers()[0].send_signal(signal.SIGKILL)
        with pytest.raises(ProgramError, match=r"worker \d of the pool ended unexpectedly"):
            strategy.drive(stops(vm), stage_of(vm))
    finally:
        strategy.close()
    vm.recover_devices()
    vm.resume_vcpus()
    vm.reconnect.resume()
    vm.reconnect.await_all(5.0)
    assert not vm.reconnect.lost
    await_requests(vm)
    check_request_log(vm)


def test_the_pool_leaves_nothing_behind(vm: Vm) -> None:
    """Neither processes nor descriptors."""
    before = psutil.Process().num_fds()
    strategy = Processes(3)
    strategy.open()
    assert len(workers()) == 3
    vm.reconnect.pause()
    vm.pause_vcpus()
    strategy.drive(stops(vm), stage_of(vm))
    strategy.close()
    strategy.close()
    assert not workers()
    # The back-ends are in this process as well, and close the descriptors of stopped rings.
    assert psutil.Process().num_fds() <= before


def test_messages_that_do_not_fit_into_one_packet_are_split(vm: Vm) -> None:
    """Descriptors as well as bytes; nothing is left out, and the order stays."""
    from vhost_user.messages import FrontendRequest, Request
    from vhost_user.payloads import U64, Config

    connection = vm.devices[1].connection
    fd = vm.devices[1].rings[0].kick_fd
    kicks = [Request(FrontendRequest.SET_VRING_KICK, U64(0), (fd,)) for _ in range(600)]
    parts = list(_parts(connection.prepare(kicks)))
    assert [len(part) for part in parts] == [252, 252, 96]
    large = [Request(FrontendRequest.GET_CONFIG, Config(0, 0, bytes(256))) for _ in range(600)]
    messages = connection.prepare(large)
    parts = list(_parts(messages))
    assert len(parts) > 1
    assert all(sum(len(m.data) for m in part) <= wire.PACKET // 2 for part in parts)
    assert [m for part in parts for m in part] == messages


def test_the_vm_survives_a_back_end_that_dies(
    vm: Vm, other: Vm, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """At the destination, so that the VM runs on at the source."""
    hosts[1].kill("blk1")
    migration = Migration(vm, other, "processes", tmp_path)
    with pytest.raises(Exception, match="blk1"):
        migration.run()
    await_requests(vm)
    check_request_log(vm)
    assert not workers()
