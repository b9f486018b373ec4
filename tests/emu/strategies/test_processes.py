"""The pool of processes: workers that end, packets, and descriptors."""

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
from tests.timeouts import TIMEOUT
from tests.waiting import open_fds

if TYPE_CHECKING:
    from pathlib import Path

    from emu.vm.vm import Vm


def workers() -> list[psutil.Process]:
    """The workers of this process."""
    children = psutil.Process().children()
    return [child for child in children if "emu.strategies.socket_worker" in child.cmdline()]


def test_a_worker_that_ends_is_named_and_its_devices_are_reconnected(vm: Vm) -> None:
    """It may have sent a part of a message, so the connections of its jobs are broken."""
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
    vm.reconnect.await_all(TIMEOUT)
    assert not vm.reconnect.lost
    await_requests(vm)
    check_request_log(vm)


def test_close_ends_the_processes_and_closes_the_descriptors(vm: Vm) -> None:
    """A second close has no effect."""
    before = open_fds()
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
    assert open_fds() <= before


def test_messages_that_do_not_fit_into_one_packet_are_split(vm: Vm) -> None:
    """By the number of descriptors and of bytes; each message is in one part, in order."""
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
    assert [m for part in parts for m in part] == list(messages)


def test_the_vm_runs_on_if_a_back_end_of_the_destination_ends(
    vm: Vm, other: Vm, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """The migration fails, and the VM runs on at the source."""
    hosts[1].kill("blk1")
    migration = Migration(vm, other, "processes", tmp_path)
    with pytest.raises(Exception, match="blk1"):
        migration.run()
    await_requests(vm)
    check_request_log(vm)
    assert not workers()
