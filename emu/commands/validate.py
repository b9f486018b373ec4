"""Validates the options before a process is started.

Each check raises `PreflightError`, whose text is one line with the error and advice.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import click

from backends.durations import DurationError, parse_duration
from emu.commands.json_output import DASH, is_stdout
from emu.config import vm_file
from emu.config.device_kinds import KINDS
from emu.config.plan import DiskFile
from emu.config.vm_spec import (
    ShapeError,
    VmSpec,
    groups_of,
    parse_group,
    parse_size,
    with_use,
)
from emu.errors import OptionError, PreflightError
from vhost_user.output_file import is_stream
from vhost_user.virtio.blk import SECTOR_SIZE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence
    from pathlib import Path

    from emu.config.ring_use import RingUse
    from emu.strategies.base import Strategy

#: Bytes: guest memory is one mapping in every process, and the address space has no room for more.
MAX_MEMORY = 16 << 40
MAX_REPEAT = 1000
#: Instead of the names of strategies.
ALL_STRATEGIES = "all"
#: Bytes a second; far above the rate that a guest reaches.
MAX_DIRTY_RATE = 64 << 30
#: Seconds. On a busy host a correct device may take some tenths of a second.
MIN_DEADLINE = 0.05
_STDOUT_FD = 1


def shape(
    devices: Mapping[str, str | None],
    *,
    vcpus: int | None = None,
    memory: str | None = None,
    file: Path | None = None,
    uses: Mapping[str, RingUse] | None = None,
) -> VmSpec:
    """The VM that the options describe. A value of None means that the option is not set.

    Args:
        devices: ``NxR`` of each kind of device, by its name.
        vcpus: the option's value.
        memory: the option's value, such as ``512M``.
        file: a TOML file that describes the whole VM.
        uses: the rings that the guest uses, by the name of the kind; the default is all.

    Raises:
        PreflightError: a value is invalid, or options contradict each other.
    """
    given: dict[str, object] = {f"--{name}": text for name, text in devices.items()}
    given |= {"--vcpus": vcpus, "--memory": memory}
    given |= {
        use.option(name, KINDS[name].rings_per_unit): use for name, use in (uses or {}).items()
    }
    if file is not None:
        both = [name for name, value in given.items() if value is not None]
        if both:
            raise OptionError(f"--vm describes the whole VM: leave {both[0]} out, or --vm")
        spec = vm_file.read(file)
    else:
        spec = _shape_of_options(devices, vcpus, memory, uses or {})
    if not spec.groups:
        options = " or ".join(f"--{name}" for name in KINDS)
        raise OptionError(f"a VM needs at least one device: {options}")
    if spec.memory_bytes > MAX_MEMORY:
        raise OptionError(f"a VM has at most {MAX_MEMORY >> 40}T of memory")
    return spec


def _shape_of_options(
    devices: Mapping[str, str | None],
    vcpus: int | None,
    memory: str | None,
    uses: Mapping[str, RingUse],
) -> VmSpec:
    default = VmSpec()
    try:
        given = {
            name: parse_group(name, text) for name, text in devices.items() if text is not None
        }
        return VmSpec(
            default.vcpus if vcpus is None else vcpus,
            default.memory_bytes if memory is None else _memory(memory),
            with_use(groups_of(given), uses),
        )
    except ShapeError as error:
        raise OptionError(str(error)) from None


def _memory(text: str) -> int:
    try:
        return parse_size(text)
    except ShapeError as error:
        raise ShapeError(f"--memory {error}") from None


def strategies(text: str, plugins: Iterable[Path] = ()) -> tuple[type[Strategy], ...]:
    """The strategies of ``NAME[,NAME...]``, in order, or all of them for `ALL_STRATEGIES`.

    Args:
        text: the option's value.
        plugins: Python files that define further strategies.

    Raises:
        PreflightError: a strategy is unknown or named twice, or a plug-in cannot be used.
    """
    from emu.strategies import registry

    for plugin in plugins:
        registry.load_file(plugin.absolute())
    if text == ALL_STRATEGIES:
        registry.load_installed()
        return tuple(registry.STRATEGIES.values())
    names = [name.strip() for name in text.split(",")]
    try:
        found = tuple(registry.find(name) for name in names)
    except ValueError as error:
        raise OptionError(str(error)) from None
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"--strategy {text}: {name} is there twice; see --repeat")
    return found


def unsafe_strategy(unsafe: str | None, names: Collection[str]) -> None:
    """Check that the strategy that ``--unsafe`` changes is selected.

    Raises:
        OptionError: it is not.
    """
    if unsafe is not None and "threads" not in names:
        raise OptionError("--unsafe changes the strategy threads: name it with --strategy")


def transport(via: str, handing_over: Collection[str]) -> None:
    """Check that the migration stream can carry descriptors if a strategy sends them.

    Args:
        via: the transport, one of `emu.config.plan.TRANSPORTS`.
        handing_over: the strategies that send descriptors.

    Raises:
        OptionError: it cannot.
    """
    for name in handing_over:
        if via != "unix":
            raise OptionError(f"{name} passes descriptors within a host: use it with --via unix")


def different_sockets(paths: Sequence[str]) -> None:
    """Check that each device has a back-end of its own.

    Args:
        paths: of the sockets of all devices' back-ends.

    Raises:
        OptionError: two devices have the same one.
    """
    for path in paths:
        if paths.count(path) > 1:
            raise OptionError(f"{path} is given twice: each device needs its own back-end")


def duration(option: str, text: str) -> int:
    """Parse a duration such as ``20ms``; returns nanoseconds.

    Raises:
        PreflightError: it is not a duration.
    """
    try:
        return parse_duration(text)
    except DurationError as error:
        raise OptionError(f"{option} {error}") from None


def deadline(text: str) -> float:
    """Parse ``--deadline``; returns seconds.

    Raises:
        PreflightError: it is not a duration, or shorter than `MIN_DEADLINE`.
    """
    seconds = duration("--deadline", text) / 1e9
    if seconds < MIN_DEADLINE:
        raise OptionError(f"--deadline {text}: a device needs {MIN_DEADLINE:g} s at the least")
    return seconds


def size(option: str, text: str) -> int:
    """Parse a size such as ``100M``; returns bytes.

    Raises:
        PreflightError: it is not a size.
    """
    try:
        return parse_size(text)
    except ShapeError as error:
        raise OptionError(f"{option} {error}") from None


def dirty_rate(text: str) -> int:
    """Parse ``--dirty-rate``; returns bytes a second.

    Raises:
        PreflightError: it is not a size, or above `MAX_DIRTY_RATE`.
    """
    rate = size("--dirty-rate", text)
    if rate > MAX_DIRTY_RATE:
        raise OptionError(f"--dirty-rate {text}: {MAX_DIRTY_RATE >> 30}G a second is the most")
    return rate


def disk(path: Path | None, spec: VmSpec, *, write: bool) -> DiskFile | None:
    """The image file of the first disk, ``--disk``.

    Raises:
        PreflightError: it cannot be opened, is empty, or has an invalid size; or the VM has no
            disk.
    """
    if path is None:
        if write:
            raise OptionError("--write goes with --disk FILE, which is missing")
        return None
    disks = [group for group in spec.groups if KINDS[group.device_class].has_image]
    if not disks:
        raise PreflightError(f"--disk {path}: the VM has no disk to put it behind; see --blk")
    if not disks[0].use.used(disks[0].rings):
        raise OptionError(f"--disk {path}: the guest uses no ring of the disk that it is to read")
    size = _disk_size(path, write=write)
    if size == 0:
        raise PreflightError(f"--disk {path} is empty")
    if size % SECTOR_SIZE:
        raise PreflightError(f"--disk {path}: {size} bytes is not a multiple of {SECTOR_SIZE}")
    return DiskFile(path.absolute(), size, write)


def _disk_size(path: Path, *, write: bool) -> int:
    try:
        # Non-blocking: the open of a FIFO must not wait for its other end.
        flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_NONBLOCK
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise PreflightError(f"--disk {path}: {error.strerror}") from None
    try:
        mode = os.fstat(fd).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise PreflightError(f"--disk {path} is neither a file nor a block device")
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise PreflightError(f"--disk {path}: has no size: {error.strerror}") from None
    finally:
        os.close(fd)


def binary_output(option: str, path: Path | None) -> None:
    """Check that data which is no text does not go to a terminal, which would obey some of it.

    Raises:
        OptionError: the option's value is a terminal, or ``-`` where stdout is one.
    """
    if path is None:
        return
    try:
        if is_stdout(path):
            terminal = os.isatty(_STDOUT_FD)
        elif stat.S_ISCHR(path.stat().st_mode):
            terminal = _is_terminal(path)
        else:
            return
    except OSError:
        return  # whoever opens it reports that
    if terminal:
        raise OptionError(
            f"{option} {path}: a terminal cannot show binary data: give a file, or redirect the "
            "output to a file or a pipe"
        )


def _is_terminal(path: Path) -> bool:
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.isatty(fd)
    finally:
        os.close(fd)


def output_file(option: str, path: Path | None, *, takes_stdout: bool = False) -> None:
    """Check that the results can be written to the path of an option.

    Args:
        option: for the error.
        path: its value.
        takes_stdout: ``-`` is stdout.

    Raises:
        PreflightError: they cannot.
    """
    if path is None:
        return
    if path == DASH and not takes_stdout:
        raise OptionError(f"{option} -: name a file: this option does not write to stdout")
    if is_stdout(path):
        return
    try:
        mode = path.stat().st_mode  # `Path.exists` hides some errors, which ones depends on Python
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except OSError as error:
        raise PreflightError(f"{option} {path}: {error.strerror}") from None
    if mode and is_stream(path):
        return
    if mode and not stat.S_ISREG(mode):
        raise PreflightError(f"{option} {path} is neither a file nor a pipe")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise PreflightError(f"{option} {path}: there is no directory {folder}")
    if not os.access(folder, os.W_OK) or (mode and not os.access(path, os.W_OK)):
        raise PreflightError(f"{option} {path}: may not be written")
    _note(option, path)


def _note(option: str, path: Path) -> None:
    """Refuse a file that another option of the same command writes, too."""
    context = click.get_current_context(silent=True)
    if context is None:
        return
    files: dict[str, str] = context.meta.setdefault(f"{__name__}.files", {})
    other = files.setdefault(os.path.realpath(path), option)
    if other != option:
        raise OptionError(f"{option} {path}: {other} writes to the same file")
