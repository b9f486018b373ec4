"""The guest as a whole: loads, quiescing, and migration to another copy of its memory."""
# ruff: noqa: D103 - the name of a test is its documentation

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from emu.config.ring_use import first_units, these_rings
from emu.config.vm_spec import ShapeError
from emu.guest.config import GuestConfig, ReaderConfig
from emu.guest.program import GuestProgram
from tests.emu.guest.conftest import Guest, MakeGuest
from tests.emu.guest.small_machine import Devices, SmallMachine, settle, small_spec
from tests.timeouts import TIMEOUT
from tests.waiting import wait_until
from vhost_user.errors import UsageError

if TYPE_CHECKING:
    from emu.machine.ram import GuestRam


def interrupt_all(guest: Guest) -> None:
    """Kick every ring and raise every interrupt once, as the start of devices does."""
    for device, spec in enumerate(guest.machine.spec.devices):
        for ring in range(spec.rings):
            guest.program.interrupt(0, guest.machine.vector(device, ring))
    for vector in guest.devices.serve_all():
        guest.program.interrupt(0, vector)


def quiesce(guest: Guest) -> None:
    """Call `GuestProgram.quiesce` while the devices run, and check that nothing is outstanding."""
    done = threading.Event()
    left: list[int] = []

    def wait() -> None:
        left.append(guest.program.quiesce(TIMEOUT))
        done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    while not done.wait(0.001):
        guest.ticks(1)
        guest.settle()
    thread.join()
    assert left == [0]


@pytest.mark.parametrize("event_idx", [True, False])
@pytest.mark.parametrize("load", ["light", "heavy"])
@pytest.mark.parametrize("steps", [1, 2, 5, 17, 100])
def test_a_guest_continues_in_a_copy_of_memory_without_loss(
    make_guest: MakeGuest, load: str, steps: int, *, event_idx: bool
) -> None:
    guest = make_guest(config=GuestConfig(event_idx=event_idx))
    guest.program.start_load(load)
    for _ in range(steps):
        guest.ticks(1)
        guest.run(7)
    guest.devices.serve_all(most=1)  # the driver has not seen these completions yet
    assert guest.program.requests_in_flight() > 0
    seen = guest.program.request_log()
    for _ in range(5):
        guest = guest.move()
        assert guest.program.request_log() == seen
        interrupt_all(guest)
        guest.ticks(3)
        guest.run(20)
        seen = guest.program.request_log()
    quiesce(guest)
    totals = guest.program.request_log()
    assert totals.intact
    assert totals.requests == totals.completed == guest.devices.served
    assert totals.packets_lost == 0
    assert totals.packets_sent == totals.packets_received == guest.devices.packets


def test_a_pause_in_the_middle_of_a_batch_migrates(make_guest: MakeGuest) -> None:
    guest = make_guest()
    guest.program.start_load("heavy")
    guest.ticks(1)
    for _ in range(4):
        guest.run(30)
        vectors = guest.devices.serve_all()
        guest.machine.paused = True
        for vector in vectors:
            guest.program.interrupt(0, vector)
        guest.ticks(1)
        guest = guest.move()
        guest.ticks(1)  # no interrupt is raised again: guest memory records that rings were left
        guest.devices.serve_all()
        guest.settle() if not guest.machine.notified else guest.run(30)
    interrupt_all(guest)
    quiesce(guest)
    totals = guest.program.request_log()
    assert totals.requests == totals.completed == guest.devices.served
    assert totals.packets_sent == totals.packets_received
    assert totals.intact


def test_memory_migrates_back_to_the_first_program(make_guest: MakeGuest) -> None:
    """Back and forth between two processes: state that a driver derived before is stale."""
    first = make_guest()
    first.program.start_load("heavy")
    first.ticks(1)
    first.run(50)
    second = first.move()
    interrupt_all(second)
    second.run(50)
    for gpa, length in second.machine.ram.extents():
        first.machine.ram.view(gpa, length)[:] = second.machine.ram.view(gpa, length)
    first.program.attach()
    devices = Devices(first.machine, first.program, second.devices.disks, second.devices.bases())
    devices.served = second.devices.served
    back = Guest(first.machine, first.program, devices)
    interrupt_all(back)
    back.run(50)
    quiesce(back)
    totals = back.program.request_log()
    assert totals.requests == totals.completed == devices.served
    assert totals.intact


def test_every_write_is_marked_dirty(make_guest: MakeGuest) -> None:
    """Pages that changed are those that the guest marked, or that a device wrote."""
    guest = make_guest()
    ram = guest.machine.ram
    devices_wrote: set[int] = set()

    def log(gpa: int, length: int) -> None:
        devices_wrote.update(range(gpa >> 12, (gpa + length - 1 >> 12) + 1))

    for device, rings in enumerate(guest.program.layout.rings):
        for ring, place in enumerate(rings):
            queue = guest.devices.queues[device, ring]
            queue.log, queue.used_log_gpa = log, place.addresses.used
    marked = ram.harvest()
    image = {page: bytes(ram.view(page << 12, 4096)) for page in _touched(ram)}
    assert {page for page, data in image.items() if data.strip(b"\0")} <= marked
    guest.program.start_load("heavy")
    guest.program.beat(time.monotonic_ns())
    guest.ticks(1)
    # without device writes first, then with them
    marked = ram.harvest()
    image = _assert_changes_within(ram, image, marked)
    request, deliver = guest.devices._request, guest.devices.deliver
    del request, deliver
    guest.run(200)
    data = {
        page
        for ring in guest.program.layout.units["blk"]
        for page in range(ring.data >> 12, (ring.data >> 12) + 4)
    } | {pair.data >> 12 for pair in guest.program.layout.units["net"]}
    # a request's own buffers are logged by the device that fills them
    _assert_changes_within(ram, image, ram.harvest() | devices_wrote | data)


def _touched(ram: GuestRam) -> list[int]:
    return [page for gpa, length in ram.extents() for page in range(gpa >> 12, gpa + length >> 12)]


def _assert_changes_within(
    ram: GuestRam, before: dict[int, bytes], allowed: set[int]
) -> dict[int, bytes]:
    after = {page: bytes(ram.view(page << 12, 4096)) for page in _touched(ram)}
    changed = {page for page, data in after.items() if data != before.get(page, bytes(4096))}
    assert changed
    assert changed <= allowed
    return after


def test_a_ring_has_few_hot_pages(make_guest: MakeGuest) -> None:
    guest = make_guest()
    guest.program.start_load("heavy")
    guest.ticks(1)
    guest.machine.ram.harvest()
    guest.run(400)
    marked = guest.machine.ram.harvest()
    # 8 net rings and 4 disk rings have a page each, and every slot of a disk's ring one
    assert len(marked) <= 8 + 4 + 4 * 4 + 4


def test_light_load_is_paced_and_keeps_requests_in_flight(make_guest: MakeGuest) -> None:
    guest = make_guest()
    guest.program.start_load("light")
    in_flight = []
    for _ in range(100):
        guest.ticks(1)
        guest.run()
        in_flight.append(guest.program.requests_in_flight())
    totals = guest.program.request_log()
    assert totals.requests == 100
    assert totals.packets_sent == 100
    assert min(in_flight) == 1
    assert totals.intact


def test_no_load_sends_nothing(make_guest: MakeGuest) -> None:
    guest = make_guest()
    guest.program.start_load("none")
    guest.ticks(50)
    guest.settle()
    totals = guest.program.request_log()
    assert totals.requests == totals.packets_sent == 0


def test_an_unknown_load(make_guest: MakeGuest) -> None:
    with pytest.raises(UsageError, match="unknown load 'full'"):
        make_guest().program.start_load("full")


def test_the_load_resumes_after_quiesce(make_guest: MakeGuest) -> None:
    guest = make_guest()
    guest.program.start_load("heavy")
    guest.ticks(1)
    guest.run(100)
    quiesce(guest)
    before = guest.program.request_log()
    guest.ticks(20)
    assert guest.program.request_log().requests == before.requests
    guest.program.resume_load()
    guest.ticks(1)
    guest.run(100)
    assert guest.program.request_log().completed > before.completed + 100


def test_what_is_outstanding_after_the_timeout_of_quiesce_is_lost(make_guest: MakeGuest) -> None:
    guest = make_guest(small_spec(net=""))
    guest.program.start_load("heavy")
    guest.ticks(1)
    assert guest.program.request_log().lost == 0
    begin = time.monotonic()
    assert guest.program.quiesce(0.05) == 16
    assert time.monotonic() - begin >= 0.05
    assert guest.program.request_log().lost == 16
    guest.settle()
    assert guest.program.quiesce(TIMEOUT) == 0
    assert guest.program.request_log().lost == 0


@pytest.mark.parametrize("damage", [0, 1, 3])
def test_verify_reads_back_all_that_was_written(make_guest: MakeGuest, damage: int) -> None:
    guest = make_guest(small_spec(net=""))
    guest.program.start_load("heavy")
    guest.ticks(1)
    guest.run(300)
    quiesce(guest)
    written = [
        (disk, block)
        for disk in (0, 1)
        for block, generation in guest.program.disks.generations(disk).items()
        if generation.value
    ]
    for disk, block in written[:: len(written) // 3][:damage]:
        guest.devices.disks[disk][4096 * block + 3000] ^= 1
    found = []
    thread = threading.Thread(target=lambda: found.append(guest.program.verify(TIMEOUT)))
    thread.start()
    while thread.is_alive():
        guest.ticks(1)
        guest.run(1000)
        thread.join(0.001)
    assert found == [(len(written), damage, True)]
    requests = guest.program.request_log().requests
    guest.ticks(10)
    assert guest.program.request_log().requests == requests


def test_only_vcpu_0_has_ticks(make_guest: MakeGuest) -> None:
    program = make_guest().program
    assert program.tick(1, 5_000_000) is None
    assert program.tick(0, 5_000_000) == 6_000_000


def test_an_interrupt_of_an_unknown_vector_is_ignored(make_guest: MakeGuest) -> None:
    guest = make_guest()
    before = guest.program.request_log()
    guest.program.interrupt(0, 9999)
    assert guest.program.request_log() == before


def test_a_reader_needs_a_disk(make_guest: MakeGuest) -> None:
    with pytest.raises(ShapeError, match="has none"):
        make_guest(small_spec(blk=""), GuestConfig(reader=ReaderConfig(8)))


def test_close_releases_memory() -> None:
    spec = small_spec()
    machine = SmallMachine(spec)
    program = GuestProgram(spec, machine)
    program.boot()
    maps = list(machine.ram._maps)
    program.close()
    machine.ram.close()
    assert all(mapping.closed for mapping in maps)


def test_many_threads_share_the_units(make_guest: MakeGuest) -> None:
    """Interrupts of all vCPUs, ticks and devices run at once, and no request is lost."""
    guest = make_guest(small_spec(net="2x4", blk="2x4"))
    stop = threading.Event()
    guard = threading.Lock()

    def vcpu(index: int) -> None:
        while not stop.is_set():
            with guard:  # unlike the guest, the devices of this test are not thread-safe
                vectors = guest.devices.serve_all(most=2)
            for vector in vectors:
                guest.program.interrupt(index, vector)

    def clock() -> None:
        while not stop.wait(0.001):
            guest.program.tick(0, time.monotonic_ns())

    threads = [threading.Thread(target=vcpu, args=(index,)) for index in range(1, 4)]
    threads.append(threading.Thread(target=clock))
    guest.program.start_load("heavy")
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: guest.program.request_log().completed > 2000)
        left = guest.program.quiesce(TIMEOUT)
        verified = guest.program.verify(TIMEOUT)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    settle(*guest)
    totals = guest.program.request_log()
    assert left == 0
    assert verified.finished
    assert verified.checked > 100
    assert totals.intact
    assert totals.requests == totals.completed == guest.devices.served


@pytest.mark.parametrize("load", ["light", "heavy"])
def test_a_guest_that_uses_no_ring_has_nothing_to_do(make_guest: MakeGuest, load: str) -> None:
    """It is quiet at once, also when it verifies, and after a migration."""
    none = these_rings([])
    guest = make_guest(small_spec(net_use=none, blk_use=none))
    for made in (guest, guest.move()):
        made.program.start_load(load)
        made.ticks(20)
        made.settle()
        assert made.program.quiesce(0.0) == 0
        assert made.program.verify(0.0).finished
        assert made.program.request_log().intact
        assert not any(map(any, made.program.progress()))


def test_disabled_rings_are_empty_at_each_boot(make_guest: MakeGuest) -> None:
    """A back-end may have written to them before."""
    guest = make_guest(small_spec(net="1x4", blk="", net_use=first_units(1, 2)))
    (*_, place) = guest.program.layout.disabled_rings(0)
    ring = guest.machine.ram.view(place.start, place.length)
    program = guest.program
    for boot in (
        program.boot,
        partial(program.boot_device, 0),
        partial(program.boot_lost_device, 0),
    ):
        ring[:] = b"x" * place.length
        boot()
        assert bytes(ring) == bytes(place.length)
