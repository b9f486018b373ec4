"""Checks that the host has the accelerator, descriptors, memory and paths that a VM needs."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

import psutil

from emu.errors import EmuError, PreflightError
from emu.machine.accel import registry
from emu.orchestrator.run_directory import PREFIX, longest_name
from vhost_user import descriptor_table
from vhost_user.channel import MAX_SOCKET_PATH
from vhost_user.temporary_directory import RANDOM_LENGTH, parent_directory

if TYPE_CHECKING:
    from emu.config.vm_spec import (
        VmSpec,
    )


# Upper bounds of the descriptors of one process: the VM's has a kick and a call for each ring; a
# socket, a log and those of a strategy for each device; an epoll set, a wake-up eventfd and a timer
# for each vCPU. A back-end program has a kick, a call and an error eventfd for each ring.
_FDS_PER_RING = 3
_FDS_PER_DEVICE = 6
_FDS_PER_VCPU = 4
_FDS_BESIDES = 128
# Memory that a ring uses on one side: a page of ring, a page of driver state, and its buffers; and
# memory of the processes themselves.
_BYTES_PER_RING = 256 << 10
_BYTES_PER_VCPU = 256 << 10
_BYTES_BESIDES = 512 << 20


def check(spec: VmSpec) -> None:
    """Check this host's limits: descriptors, memory, length of socket paths.

    The soft limit of descriptors is raised to the hard limit.

    Raises:
        PreflightError: a limit is too low for this VM.
    """
    _check_descriptors(spec)
    _check_memory(spec)
    _check_socket_paths(spec)


def check_accelerator(name: str, spec: VmSpec) -> None:
    """Check that this accelerator works on this host and supports so large a VM.

    Raises:
        PreflightError: it does not.
    """
    size = {"vcpus": spec.vcpus, "rings": spec.rings}
    try:
        registry.check(registry.resolve(name, **size), **size)
    except EmuError as error:
        raise PreflightError(f"--accel {name}: {error}") from None


def descriptors_needed(spec: VmSpec) -> int:
    """The most descriptors that one process of a run has open."""
    return (
        spec.rings * _FDS_PER_RING
        + len(spec.devices) * _FDS_PER_DEVICE
        + spec.vcpus * _FDS_PER_VCPU
        + _FDS_BESIDES
    )


def _check_descriptors(spec: VmSpec) -> None:
    hard = descriptor_table.raise_limit()
    needed = descriptors_needed(spec)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise PreflightError(
            f"a VM with {spec.rings} rings and {spec.vcpus} vCPUs needs {needed} open files in one "
            f"process, but the hard limit is {hard}: raise it (ulimit -Hn), or ask for a smaller VM"
        )


def memory_needed(spec: VmSpec) -> int:
    """The most bytes of memory that all processes of a migration use."""
    sides = 2
    rings = min(spec.rings * _BYTES_PER_RING, spec.memory_bytes)
    return sides * (rings + spec.vcpus * _BYTES_PER_VCPU) + _BYTES_BESIDES


def _check_memory(spec: VmSpec) -> None:
    needed = memory_needed(spec)
    available = psutil.virtual_memory().available
    if available < needed:
        raise PreflightError(
            f"a VM with {spec.rings} rings takes up to {needed >> 20} MiB of this machine's "
            f"memory, and {available >> 20} MiB are available: ask for fewer rings"
        )
    space, _hard = resource.getrlimit(resource.RLIMIT_AS)
    if space != resource.RLIM_INFINITY and space < spec.memory_bytes + _BYTES_BESIDES:
        raise PreflightError(
            f"the address space of a process is limited to {space >> 20} MiB, and guest memory is "
            f"{spec.memory_bytes >> 20} MiB: raise the limit (ulimit -v unlimited)"
        )


def _check_socket_paths(spec: VmSpec) -> None:
    directory = parent_directory()
    path = directory / (PREFIX + "x" * RANDOM_LENGTH) / longest_name(spec)
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH:
        raise PreflightError(
            f"a socket in {directory} would have a path of {length} bytes, and a unix socket's has "
            f"at most {MAX_SOCKET_PATH}: set TMPDIR to a shorter directory"
        )
