"""The monitor's commands, also when a back-end fails during one."""

from __future__ import annotations

import inspect
import json
import queue
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emu.errors import EmuError
from emu.qmp.server import MonitorServer
from emu.vm.vm import Vm
from emu.vm_process.commands import commands
from emu.vm_process.control import Control
from tests.emu.migration.hosts import Host, await_disk, await_requests, check_request_log
from tests.emu.vm_process.qmp_clients import unix_chardev
from tests.timeouts import TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from pathlib import Path

    from emu.qmp.protocol import JsonObject

BLK0 = 1
Events = queue.SimpleQueue[tuple[str, "JsonObject"]]


@pytest.fixture
def events() -> Events:
    """The events of the control."""
    return queue.SimpleQueue()


@pytest.fixture
def control(hosts: tuple[Host, Host], owned: ExitStack, events: Events) -> Control:
    """The control of a VM under load."""
    made = Control(lambda name, data: events.put((name, data)))
    hosts[0].create(made)
    owned.callback(made.close)
    made.start()
    await_requests(made.vm)
    return made


@pytest.mark.parametrize("step", ["reset_device", "activate_device"])
def test_a_device_whose_back_end_ends_during_a_reset_is_lost(
    hosts: tuple[Host, Host],
    control: Control,
    events: Events,
    step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an event; the other devices are reset, and the lost one works after its reconnection."""
    host, vm, original = hosts[0], control.vm, getattr(Vm, step)

    def kill_and_do(vm: Vm, index: int) -> None:
        if index == BLK0:
            host.kill("blk0")
        original(vm, index)

    monkeypatch.setattr(Vm, step, kill_and_do)
    with pytest.raises(EmuError, match="without a back-end: blk0"):
        control.reset()
    assert [events.get(timeout=TIMEOUT)[0] for _ in range(2)] == ["DEVICE_LOST", "RESET"]
    assert control.query_status() == {"status": "running", "running": True}
    await_disk(vm, 1, 0)
    host.restart("blk0")
    assert events.get(timeout=TIMEOUT) == ("DEVICE_BACK", {"device": "blk0"})
    await_disk(vm, 0, 0)
    await_requests(vm)
    check_request_log(vm)
    monkeypatch.undo()
    control.reset()
    await_requests(vm)


def await_end(events: Events) -> str:
    """Wait for the end of the migration; return its status."""
    while True:
        name, data = events.get(timeout=TIMEOUT)
        if name == "MIGRATION" and data["status"] in ("completed", "failed", "cancelled"):
            return str(data["status"])


@pytest.mark.parametrize("handover", [False, True])
def test_the_status_before_and_after_an_incoming_migration(
    hosts: tuple[Host, Host],
    control: Control,
    events: Events,
    owned: ExitStack,
    tmp_path: Path,
    *,
    handover: bool,
) -> None:
    """As in QEMU: inmigrate until the migration has completed, and paused after a later stop."""
    other_events: Events = queue.SimpleQueue()
    other = Control(lambda name, data: other_events.put((name, data)))
    owned.callback(other.close)
    assert other.query_status() == {"status": "prelaunch", "running": False}
    hosts[1].create(other, "B")
    uri = other.incoming(f"unix:{tmp_path / 'stream'}", handover=handover)["uri"]
    awaiting = "prelaunch" if handover else "inmigrate"
    assert other.query_status() == {"status": awaiting, "running": False}
    control.migrate(uri, "handover" if handover else "split", {})
    assert [await_end(events), await_end(other_events)] == ["completed", "completed"]
    assert control.query_status() == {"status": "postmigrate", "running": False}
    with pytest.raises(EmuError, match="must not run here, too"):
        control.cont()
    assert other.query_status() == {"status": "running", "running": True}
    assert "precopy" in control.timeline()
    assert "source" in other.timeline()
    assert "ram" in control.query_migrate()
    assert "ram" not in other.query_migrate()
    other.stop()
    assert other.query_status() == {"status": "paused", "running": False}
    other.cont()
    assert other.query_status() == {"status": "running", "running": True}
    await_requests(other.vm)
    check_request_log(other.vm)


def test_a_new_deadline_holds_for_a_running_vm(control: Control) -> None:
    """The VM itself uses it for the dirty log and a roll-back."""
    control.set_parameters({"deadline": 3.5})
    assert control.vm.timeout == 3.5


#: Any value of Python's dialect of JSON, and some that are nearly valid.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 66), 1 << 66)
    | st.floats()
    | st.sampled_from(["start", "limit", "split", "threads", "unix:/x", "tcp:a:1", "dirty-bitmap"])
    | st.text(st.characters(), max_size=6),
    lambda part: (
        st.lists(part, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["threads", "unsafe", "stats", "disks", "deadline", "streams", "0", "²"]
            )
            | st.text(max_size=4),
            part,
            max_size=3,
        )
    ),
    max_leaves=6,
)


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_any_arguments_of_any_command_get_an_answer(control: Control, events: Events) -> None:
    """The VM process goes on; no migration of such arguments ends in a traceback."""
    internal = {"x-create", "x-start", "x-prepare", "x-release", "migrate-incoming"}
    handlers = {name: use for name, use in commands(control).items() if name not in internal}
    names = {
        name: [argument.replace("_", "-") for argument in inspect.signature(use).parameters]
        for name, use in handlers.items()
    }
    ours, theirs = socket.socketpair()
    server = MonitorServer(theirs, handlers, alone=False)
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve()
        except BaseException as error:  # noqa: BLE001  it fails the test
            failures.append(error)
            theirs.shutdown(socket.SHUT_RDWR)

    serving = threading.Thread(target=serve)
    serving.start()
    lines = ours.makefile("rb")
    assert b"QMP" in lines.readline()

    def ask(message: object) -> dict[str, object]:
        ours.sendall(json.dumps(message).encode() + b"\n")
        answer = lines.readline()
        assert answer, failures
        found = json.loads(answer)
        assert isinstance(found, dict)
        return found

    assert "return" in ask({"execute": "qmp_capabilities"})

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=st.data())
    def hostile(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(handlers)))
        arguments = {
            argument: data.draw(VALUES) for argument in names[name] if data.draw(st.integers(0, 5))
        }
        timeout = arguments.get("timeout")
        if isinstance(timeout, int | float) and 0.1 < timeout < threading.TIMEOUT_MAX:
            arguments["timeout"] = 0.1  # a valid time-out is waited for
        assert ask({"execute": name, "arguments": arguments}).keys() & {"return", "error"}

    hostile()
    ask({"execute": "cont"})
    ask({"execute": "x-resume-load"})
    await_requests(control.vm)
    ours.shutdown(socket.SHUT_RDWR)
    serving.join(TIMEOUT)
    server.close()
    ours.close()
    assert not failures
    errors = []
    while not events.empty():
        errors.append(str(events.get()[1].get("error-desc", "")))
    assert not [error for error in errors if "Error:" in error]


@pytest.fixture
def waiting(hosts: tuple[Host, Host], owned: ExitStack) -> tuple[Control, Events]:
    """The control of a VM that is to arrive, and its events."""
    events: Events = queue.SimpleQueue()
    made = Control(lambda name, data: events.put((name, data)))
    owned.callback(made.close)
    hosts[1].create(made, "B")
    made.prepare()
    return made, events


def refuse_all(control: Control) -> None:
    """What has to wait for the VM is refused, as in QEMU, and the VM does not run."""
    refused: tuple[Callable[[], None], ...] = (
        lambda: control.migrate("unix:/none", "split", {}),
        control.reset,
        lambda: control.calc_dirty_rate(1),
        lambda: control.quiesce(TIMEOUT),
        control.resume_load,
    )
    for command in refused:
        with pytest.raises(EmuError, match="Guest is waiting for an incoming migration"):
            command()
    assert control.query_status() == {"status": "inmigrate", "running": False}
    assert control.vm.machine.paused


def test_a_vm_that_has_not_arrived_does_not_run(
    control: Control, events: Events, waiting: tuple[Control, Events], tmp_path: Path
) -> None:
    """Whatever a client asks for, before the source connects and after the migration has failed."""
    there, other_events = waiting
    there.cont()
    refuse_all(there)
    uri = there.incoming(f"unix:{tmp_path / 'stream'}")["uri"]
    there.cont()
    refuse_all(there)
    control.set_parameters({"max-bandwidth": 1 << 20})
    control.migrate(uri, "split", {})
    sending = [control.sending]
    while events.get(timeout=TIMEOUT)[0] != "MIGRATION_PASS":
        """The source has connected."""
    control.cancel()
    assert [await_end(events), await_end(other_events)] == ["cancelled", "failed"]
    there.cont()
    refuse_all(there)
    sending.append(control.sending)
    assert sending == [True, False]
    await_requests(control.vm)


@pytest.mark.parametrize("commands_", [["stop"], ["stop", "cont"], ["stop", "cont", "stop"]])
@pytest.mark.parametrize("listens", [False, True])
def test_stop_before_the_vm_has_arrived(
    control: Control,
    events: Events,
    waiting: tuple[Control, Events],
    tmp_path: Path,
    commands_: list[str],
    *,
    listens: bool,
) -> None:
    """As in QEMU: the last of stop and cont decides whether it runs when it has arrived."""
    there, other_events = waiting
    uri = f"unix:{tmp_path / 'stream'}"
    if listens:
        there.incoming(uri)
    for name in commands_:
        getattr(there, name)()
    if not listens:
        there.incoming(uri)
    control.migrate(uri, "prewired", {})
    assert [await_end(events), await_end(other_events)] == ["completed", "completed"]
    runs = commands_[-1] == "cont"
    status = "running" if runs else "paused"
    assert there.query_status() == {"status": status, "running": runs}
    assert control.query_status()["status"] == "postmigrate"
    there.cont()
    await_requests(there.vm)
    check_request_log(there.vm)


def test_a_vm_that_is_stopped_migrates(
    control: Control, events: Events, waiting: tuple[Control, Events], tmp_path: Path
) -> None:
    """It stays stopped, also if a first attempt fails; `cont` resumes it and its reconnections."""
    there, other_events = waiting
    control.stop()
    control.migrate("unix:/no/such/socket", "split", {})
    assert await_end(events) == "failed"
    assert control.query_status() == {"status": "paused", "running": False}
    uri = there.incoming(f"unix:{tmp_path / 'stream'}")["uri"]
    control.migrate(uri, "prewired", {})
    assert [await_end(events), await_end(other_events)] == ["completed", "completed"]
    assert there.query_status() == {"status": "paused", "running": False}
    there.cont()
    assert other_events.get(timeout=TIMEOUT)[0] == "RESUME"
    await_requests(there.vm)
    check_request_log(there.vm)


def test_counters_of_before_a_reset_are_not_the_guests(control: Control) -> None:
    """The log of the guest begins anew."""
    assert control.request_log()["counters_match"]
    control.reset()
    assert not control.request_log()["counters_match"]
    await_requests(control.vm)


def test_the_image_of_a_disk_with_another_back_end_is_not_read(
    control: Control, hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    """The guest has written to another one."""
    images = {"0": str(tmp_path / "blk0.img"), "1": str(tmp_path / "none.img")}
    control.hotplug.device_del("blk1", arriving=False)
    control.settle()
    control.hotplug.chardev_add("c", unix_chardev(hosts[1].sockets["blk1"]))
    properties = {"driver": "vhost-user-blk-pci", "id": "blk1", "chardev": "c"}
    control.hotplug.device_add(properties, arriving=False)
    await_disk(control.vm, 1, 0)
    control.quiesce(TIMEOUT)
    assert control.verify(TIMEOUT, images)["corrupted"] == 0
    assert not control.request_log()["counters_match"]


def test_no_device_comes_or_goes_while_the_vm_arrives(
    control: Control, events: Events, waiting: tuple[Control, Events], tmp_path: Path
) -> None:
    """From the moment at which the source has connected."""
    there, other_events = waiting
    with there.hotplugging("device_del") as arriving:
        assert arriving
    uri = there.incoming(f"unix:{tmp_path / 'stream'}")["uri"]
    control.set_parameters({"max-bandwidth": 1 << 20})
    with there.hotplugging("device_del") as arriving:
        assert arriving
        control.migrate(uri, "split", {})
        assert other_events.get(timeout=TIMEOUT) == ("MIGRATION", {"status": "setup"})
    assert other_events.get(timeout=TIMEOUT) == ("MIGRATION", {"status": "active"})
    refused = pytest.raises(EmuError, match="device_del is not possible while migrating")
    with refused, there.hotplugging("device_del"):
        """Not reached."""
    while events.get(timeout=TIMEOUT)[0] != "MIGRATION_PASS":
        """The source goes on."""
    control.cancel()
    assert [await_end(events), await_end(other_events)] == ["cancelled", "failed"]
