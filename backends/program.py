"""What the back-end programs have in common, from their start to their end.

They follow QEMU's conventions for back-end programs (docs/interop/vhost-user.rst, "Backend
program conventions"): ``--socket-path`` or ``--fd``, ``--print-capabilities``, no daemon, a
quick end at SIGTERM.
"""

from __future__ import annotations

import fcntl
import gc
import json
import logging
import os
import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from backends import console_script, sandbox
from backends.image import ImageError
from backends.line_limit import LineLimit
from backends.loop import Loop
from backends.server import DeviceServer, ServerError, inherit, listen
from backends.stats import StatsWriter
from backends.terminal import Terminal
from vhost_user import descriptor_table, eventfd
from vhost_user.readiness import readable

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from backends.options import Settings
    from backends.virtio_device import VirtioDevice

#: Seconds after a SIGHUP until the terminal is looked for again: the kernel may send the signal
#: just before it takes the terminal from the session.
TERMINAL_RECHECK = 0.2
log = logging.getLogger("backends")


class ProgramError(click.ClickException):
    """The program cannot start; one line for the user."""

    exit_code = 1


class Program:
    """The loops, devices and sockets of one program; a subclass makes the devices.

    Attributes:
        refreshes: at SIGHUP the devices are refreshed (`VirtioDevice.refresh`), unless the terminal
            has closed; otherwise SIGHUP ends the program.
        sandboxed: whether it is in the sandbox by default (`backends.sandbox`).

    Raises:
        ProgramError: it cannot start; everything that was made until then is removed again.
    """

    refreshes = False
    sandboxed = True

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._check_ready_fd()  # first: a number that is closed is soon that of another descriptor
        self._ended, self._end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._servers: list[DeviceServer] = []
        self._stack = ExitStack()
        self._crashed = False
        self._loops = [Loop(f"control-{n}") for n in range(_threads(settings))]
        try:
            self.stats = StatsWriter(settings.devices, settings.stats_file)
        except OSError as error:
            raise ProgramError(f"{settings.stats_file}: {error.strerror}") from error

    def make_device(self, number: int, name: str, loop: Loop) -> VirtioDevice:
        """The device of the socket with this number.

        Raises:
            ImageError, ServerError, ProgramError: it cannot be made.
        """
        raise ProgramError(f"no device {number} ({name}) for {loop.name}")

    def loop_of(self, number: int) -> Loop:
        """The loop that serves the device with this number."""
        return self._loops[number % len(self._loops)]

    def run(self) -> None:
        """Serve until a signal ends that, or the front-end of ``--fd`` has disconnected.

        SIGTERM and SIGINT end it, and so does SIGHUP where the terminal has closed. A SIGINT that
        the program was started to ignore, as a job in the background of a script, stays ignored.
        """
        terminal = Terminal()
        # The descriptor is written to at once, in whichever thread the signal is delivered.
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _noted)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background job
            signal.signal(signal.SIGINT, _noted)
        if self.refreshes or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, _noted)
        threading.excepthook = self._on_crash
        try:
            self._open()
            self._confine()
            for loop in self._loops:
                loop.on_loss(self.stats.check)
                loop.start()
            self._tell_ready()
            # What exists now is never garbage, and the loops make no reference cycles: a
            # collection in the middle of a stop would only delay it.
            gc.collect()
            gc.freeze()
            gc.disable()
            self._wait(terminal)
            if self._crashed:
                raise ProgramError("ended by an internal error")
        except (ImageError, ServerError) as error:
            raise ProgramError(str(error)) from error
        finally:
            self._close()
            terminal.close()

    def end(self) -> None:
        """From any thread: have `run` return."""
        os.write(self._end, b"e")

    @property
    def extra_sockets(self) -> Sequence[str]:
        """Paths of the sockets that a subclass has besides those of its devices."""
        return ()

    def close_extras(self) -> None:
        """Release what a subclass has besides its devices; called when all loops have ended."""

    def _open(self) -> None:
        descriptor_table.raise_limit()
        descriptor_table.reserve()
        if eventfd.may_wait():
            log.warning(
                "io_setup(2) has failed: a front-end whose call descriptor blocks delays the others"
            )
        for number, (name, sock) in enumerate(self._sockets()):
            device = self.make_device(number, name, self.loop_of(number))
            self._servers.append(
                DeviceServer(
                    device,
                    sock,
                    self.settings.options,
                    on_end=self.end,
                )
            )

    def _sockets(self) -> list[tuple[str, socket.socket]]:
        """Name and socket of each device; made before any device is."""
        if self.settings.fd is not None:
            return [(f"fd {self.settings.fd}", inherit(self.settings.fd))]
        sockets: list[tuple[str, socket.socket]] = []
        for path in self.settings.socket_paths:
            sock = listen(path)
            self._stack.callback(sock.close)
            sockets.append((Path(path).name.removesuffix(".sock"), sock))
        return sockets

    def _confine(self) -> None:
        """Enter the sandbox, before there is a thread that serves anything."""
        wanted = self.settings.sandbox
        if not (self.sandboxed if wanted is None else wanted):
            return
        paths = (*self.settings.socket_paths, *self.extra_sockets)
        try:
            sandbox.confine(Path(path).absolute().parent for path in paths)
        except sandbox.SandboxError as error:
            if wanted:
                raise ProgramError(f"--sandbox: no seccomp filter: {error}") from error
            log.warning("runs without a seccomp filter: %s", error)

    def _check_ready_fd(self) -> None:
        fd = self.settings.ready_fd
        if fd is None:
            return
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        except OSError as error:
            raise ProgramError(f"--ready-fd {fd}: {error.strerror}") from error
        if flags & os.O_ACCMODE == os.O_RDONLY:  # O_PATH, too
            raise ProgramError(f"--ready-fd {fd}: is not open for writing")

    def _tell_ready(self) -> None:
        fd = self.settings.ready_fd
        if fd is not None:
            try:
                os.write(fd, b"\n")
                os.close(fd)
            except OSError as error:
                raise ProgramError(f"--ready-fd {fd}: {error.strerror}") from error

    def _on_crash(self, crash: threading.ExceptHookArgs) -> None:
        """End the program because a thread failed: front-ends would wait for replies."""
        error = crash.exc_value
        log.critical("%s", error, exc_info=error)
        self._crashed = True
        self.end()

    def _wait(self, terminal: Terminal) -> None:
        """Return at a signal that ends the program, or at `end`."""
        timeout: float | None = None
        while True:
            ready = readable([self._ended], timeout)
            if ready and not (os.read(self._ended, 1) == bytes([signal.SIGHUP]) and self.refreshes):
                return
            if terminal.closed():
                return
            if ready:
                for server in self._servers:
                    server.device.loop.post(server.device.refresh)
            timeout = TERMINAL_RECHECK if ready else None

    def _close(self) -> None:
        for server in self._servers:
            server.stop_waiting()
        stuck = [loop for loop in self._loops if not loop.stop()]
        self.close_extras()
        if not stuck:
            for server in self._servers:
                server.close()
            for loop in self._loops:
                loop.close()
        self._stack.close()
        self.stats.close()


def _noted(_signum: int, _frame: object) -> None:
    """A Python handler, so that the signal has no default action and is written to the pipe."""


def run_command(
    command: click.Command,
    name: str,
    capabilities: dict[str, object] | None,
    arguments: Sequence[str] | None = None,
) -> NoReturn:
    """Runs a program to its end and exits with its status; errors are one line on stderr.

    Args:
        command: the program.
        name: its name.
        capabilities: what --print-capabilities prints, without a look at other options; None if the
            command prints them itself.
        arguments: those of the command line by default.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    console_script.run(name, lambda: _status(command, name, capabilities, given))


def _status(
    command: click.Command,
    name: str,
    capabilities: dict[str, object] | None,
    arguments: list[str],
) -> int:
    if capabilities is not None and "--print-capabilities" in arguments:
        # The other options are not even checked.
        click.echo(json.dumps(capabilities))
        return 0
    logging.basicConfig(format=f"{name}: %(message)s", level=logging.WARNING)
    log.addFilter(LineLimit())
    try:
        status = command.main(arguments, prog_name=name, standalone_mode=False)
    except click.ClickException as error:
        return console_script.complain(name, error.format_message(), error.exit_code)
    except click.Abort:
        return console_script.complain(name, "ended by SIGINT", console_script.INTERRUPTED)
    return status if isinstance(status, int) else 0


def _threads(settings: Settings) -> int:
    """How many threads the devices of a program need so that none waits for another.

    A stop that has to wait holds no thread, so one is enough, and Python runs one at a time anyway;
    but injected latency is slept.
    """
    paced = any(settings.options.latency)
    return settings.devices if paced and not settings.options.shared else 1
