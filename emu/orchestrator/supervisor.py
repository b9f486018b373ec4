"""What a run is made of: its directory, its signals, its sides; and that all of it ends."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from emu.errors import CommandError, ProgramError
from emu.orchestrator.run_directory import SIDES, RunDirectory
from emu.orchestrator.signals import SignalWatcher
from emu.orchestrator.vm_host import VM_PROGRAM, VmHost

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from emu.config.plan import MachinePlan
    from emu.report.progress import Progress


class Supervisor:
    """Starts the programs of a run and answers for their end, whatever happens.

    Use it as a context manager. A signal, a program that ends by itself and a command that fails
    all surface as one `EmuError` with one line; every program has ended and every file is gone
    when the block has been left.

    Args:
        plan: the VM.
        progress: told of what happens.
        sides: how many sides the run has: 2 to migrate, 1 to run only.
        awaits_vm: the VM comes from another run, whose images these are until then.
        vm_program: the command that runs a VM's process.
    """

    def __init__(
        self,
        plan: MachinePlan,
        progress: Progress,
        *,
        sides: int = 2,
        awaits_vm: bool = False,
        vm_program: Sequence[str] = VM_PROGRAM,
    ) -> None:
        self.plan = plan
        self.progress = progress
        self.watcher = SignalWatcher()
        self.sides: list[VmHost] = []
        self._names = SIDES[:sides]
        self._awaits_vm = awaits_vm
        self._vm_program = vm_program
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.watcher)
            self.directory = stack.enter_context(
                RunDirectory(self.plan.images, awaits_vm=self._awaits_vm)
            )
            for name in self._names:
                side = VmHost(name, self.plan, self.directory, self.watcher, self._vm_program)
                stack.callback(side.stop)
                self.sides.append(side)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if isinstance(error, CommandError):
                self._blame(error)
        finally:
            self._stack.close()

    def start_programs(self) -> None:
        """Start everything at once and return when all of it is ready.

        Raises:
            EmuError: something ended, or did not get ready in time.
        """
        count = 0
        for side in self.sides:
            side.start_programs()
            count += len(side.pids)
        self.progress.step(f"start: {count} programs, {len(self.plan.spec.devices)} devices a side")
        for side in self.sides:
            side.await_programs()

    def _blame(self, error: CommandError) -> None:
        """A VM that failed may have failed because a back-end died: then that is the news."""
        try:
            self.watcher.wait((), 0.2)
        except ProgramError as death:
            raise ProgramError(f"{death} ({error})") from error
