"""What every destination does: hear the greeting, take the VM once, and say how it ended."""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from typing import TYPE_CHECKING

from devices.procedure import Phase
from emu.errors import EmuError, MigrationError
from emu.migration import clocks, completion
from emu.migration.handshake import DiskCheck, Greeting, welcome
from emu.migration.history import Past
from emu.migration.side import MigrationSide
from emu.migration.stream import Kind, MigrationStream
from vhost_user.errors import VhostUserError

if TYPE_CHECKING:
    from emu.config.migration_parameters import Parameters
    from emu.config.vm_spec import VmSpec
    from emu.migration.precopy import Observer
    from emu.qmp.protocol import JsonObject
    from emu.strategies.base import Strategy
    from emu.vm.vm import Vm


class Arrival(MigrationSide):
    """One incoming migration.

    Args:
        spec: of the VM that can come.
        parameters: what it may take.
        observe: told of what happens.
        past: what earlier migrations of this VM took.
        accel: the accelerator that this side's VM has, or will have.
        check_disks: what of the source's disks is not as here.

    Attributes:
        vm: this side's VM, once there is one.
        source: what the source told of its side when the VM had moved, if it did.
    """

    #: Whether it takes the source's own devices and memory, which a strategy has to be made for.
    inherits = False

    def __init__(
        self,
        spec: VmSpec,
        *,
        parameters: Parameters,
        observe: Observer,
        past: Past | None = None,
        accel: str = "soft",
        check_disks: DiskCheck | None = None,
    ) -> None:
        super().__init__(0)
        self.awaits_vm = True
        self.vm: Vm | None = None
        self.source: JsonObject = {}
        self._spec = spec
        self._accel = accel
        self._deadline = parameters.deadline
        self._observe = observe
        self._past = Past() if past is None else past
        self._committed = False
        self._stream: MigrationStream | None = None
        self._check_disks = check_disks
        # How far this side's clock is ahead of the source's.
        self._ahead_ns = 0

    def figures(self) -> JsonObject:
        """See `MigrationSide.figures`."""
        return {"source": self.source}

    def run(self, stream: MigrationStream) -> None:
        """Receive the VM over a connected stream. When it returns, the VM runs here.

        Raises:
            EmuError, VhostUserError, OSError: it failed; the source has been told if possible.
        """
        self._stream = stream
        with contextlib.closing(stream):
            reason = "the destination ended unexpectedly"
            running = False
            try:
                greeting = self._greet(stream)
                with contextlib.closing(greeting.strategy):
                    self._take_over(greeting, stream)
                running = True
                if greeting.farewell:
                    # It runs here whether the source's figures come or not.
                    with contextlib.suppress(MigrationError):
                        self.source = self._take_farewell(stream, greeting)
            except (VhostUserError, EmuError, OSError) as error:
                reason = str(error)
                raise
            finally:
                if not running and not self._committed:
                    # The back-ends must be the source's alone before it hears of this.
                    self._let_go()
                    stream.give_up(reason)

    def give_up(self) -> None:
        """From another thread: this process is to end. Unless GO has come the VM stays there.

        What has come is read first, and the source is still told: it may have sent GO just now.
        """
        stream = self._stream
        if stream is not None:
            stream.interrupt_reading()

    @abstractmethod
    def _take_over(self, greeting: Greeting, stream: MigrationStream) -> None:
        """Everything from the greeting to RUNNING."""

    @abstractmethod
    def _let_go(self) -> None:
        """It has failed, and the VM is not this side's: leave the devices alone."""

    def _greet(self, stream: MigrationStream) -> Greeting:
        kind, _, payload = stream.receive()
        if kind is not Kind.HELLO:
            raise MigrationError("stream", f"{kind.name} came where HELLO was due")
        greeting = Greeting.accept(payload, self._spec, self._accel, self.vm, self._check_disks)
        self._refuse_stranger(greeting.strategy)
        stream.send(Kind.WELCOME, welcome())
        if not greeting.same_clock:
            clocks.answer(stream)
            self._ahead_ns = clocks.learn(stream)
        return greeting

    def _refuse_stranger(self, strategy: Strategy) -> None:
        if strategy.hands_over and not self.inherits:
            raise MigrationError(
                "handover", "this side has devices of its own: migrate-incoming with handover"
            )
        if self.inherits and not strategy.hands_over:
            raise MigrationError(
                "handover", f"this side has no devices until they are handed over: {strategy.NAME}"
            )

    def _take_farewell(self, stream: MigrationStream, greeting: Greeting) -> JsonObject:
        commits = 0 if self.vm is None else self.vm.machine.commits - self.commits_before
        news: JsonObject = {
            **self.timeline.to_json(),
            "commits": commits,
            "guest_gap_ns": self.guest_gap_ns,
        }
        return completion.take(stream, same_clock=greeting.same_clock, news=news)

    def _await_go(self, stream: MigrationStream) -> None:
        """Say that the devices have been started; the VM is this side's when GO has come.

        Raises:
            MigrationError: the source has given up, or is silent: then it runs on there.
        """
        stream.send(Kind.READY)
        kind, _, _ = stream.receive()
        if kind is not Kind.GO:
            raise MigrationError("stream", f"{kind.name} came where GO was due")
        self._committed = True

    def _take_off(self, vm: Vm, stream: MigrationStream, *, signal: bool) -> None:
        """The end of the blackout: the vCPUs run, and the source hears of it.

        Args:
            vm: this side's VM.
            stream: to the source.
            signal: kick and call every ring, as what was pending there does not show here.
        """
        timeline = self.timeline
        start = timeline.begin(Phase.RESUME_VCPUS)
        running = vm.take_off(self._deadline)
        timeline.add(Phase.RESUME_VCPUS, start, end=running)
        timeline.marks["running_ns"] = running
        timeline.in_blackout = False
        self.awaits_vm = False
        # After the vCPUs: an interrupt for every ring would have all of them compete with those
        # that are waited for.
        if signal:
            vm.signal_all_rings()
        # It is only news: the source has let go of the VM, whether it hears of this or not.
        with contextlib.suppress(MigrationError):
            stream.send(Kind.RUNNING)
        self.guest_gap_ns = vm.guest.heartbeat.gap_at(timeline.marks["switchover_ns"])
        vm.keeper.watch()
        self._observe("RESUME", {})
