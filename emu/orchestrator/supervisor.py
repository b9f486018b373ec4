"""Starts and ends the parts of a run: its directory, its signal handling and its sides."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from emu.errors import CommandError, ProgramError
from emu.orchestrator.images_lock import Role
from emu.orchestrator.run_directory import SIDES, RunDirectory
from emu.orchestrator.signals import SignalWatcher
from emu.orchestrator.vm_host import VM_PROGRAM, VmHost
from emu.report.cells import counted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from emu.config.plan import MachinePlan
    from emu.report.progress import Progress


class Supervisor:
    """Starts the programs of a run, and ends them in any case.

    Use it as a context manager. A signal, a program that ends by itself and a command that fails
    each raise one `EmuError` with one line. When the block has been left, every program has ended
    and every temporary file is removed.

    Args:
        plan: the VM.
        progress: shows the steps.
        sides: how many sides the run has: 2 to migrate, 1 to run only.
        role: the use that the run makes of the plan's images.
        vm_program: the command that runs a VM's process.
    """

    def __init__(
        self,
        plan: MachinePlan,
        progress: Progress,
        *,
        sides: int = 2,
        role: Role = Role.ALONE,
        vm_program: Sequence[str] = VM_PROGRAM,
    ) -> None:
        self.plan = plan
        self.progress = progress
        self.watcher = SignalWatcher()
        self.sides: list[VmHost] = []
        self._names = SIDES[:sides]
        self._role = role
        self._vm_program = vm_program
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.watcher)
            self.directory = stack.enter_context(RunDirectory(self.plan.images, role=self._role))
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
                self._find_cause(error)
        finally:
            self._stack.close()

    def start_programs(self) -> None:
        """Start all programs at once, and return when all are ready.

        Raises:
            EmuError: a program ended, or was not ready in time.
        """
        count = 0
        for side in self.sides:
            side.start_programs()
            count += len(side.pids)
        devices = counted(len(self.plan.spec.devices), "device")
        self.progress.step(f"start: {counted(count, 'program')}, {devices} a side")
        for side in self.sides:
            side.await_programs()

    def _find_cause(self, error: CommandError) -> None:
        """Raise the error of a back-end that has ended, as it may be why the command failed."""
        try:
            self.watcher.wait((), 0.2)
        except ProgramError as ended:
            raise ProgramError(f"{ended} ({error})") from error
