"""Tests mirror the modules: each module has a test file of its name, at its place in the packages.

``emu/qmp/client.py`` is tested by ``tests/emu/qmp/test_client.py``. What has no file of its name,
and which test files are of no module's name, is listed here with the reason.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

ROOT = Path(__file__).parents[1]
PACKAGES = ("emu", "devices", "backends", "vhost_user", "vhost_user_conformance")

#: Modules without a test file of their name, as patterns.
WITHOUT = {
    # Entry points of two lines, and what setup.py builds the extensions from.
    "emu/__main__.py": "tests/emu/test_cli.py runs it",
    "emu/vm_process/__main__.py": "tests/emu/vm_process/test_commands.py runs it",
    "vhost_user/_native_build.py": "tests/vhost_user/test_native.py uses what it builds",
    "emu/machine/accel/_kvm_build.py": "tests/emu/machine/accel/test_kvm_vm.py uses what it builds",
    # Interfaces and tables, without any code.
    "emu/guest/platform.py": "protocols only",
    "backends/observer.py": "a protocol only",
    "emu/machine/accel/base.py": "abstract classes: test_contract.py has what implementations keep",
    "emu/guest/config.py": "named tuples only",
    "vhost_user_conformance/front_end/acts.py": "names only",
    "vhost_user_conformance/errors.py": "classes without code only",
    "emu/trace_events.py": "a table: tests/emu/report/test_trace_document.py reads it",
    "vhost_user/trace_events.py": "a table: tests/emu/report/test_trace_document.py reads it",
    "vhost_user_conformance/trace_events.py": "a table: test_conform.py has them in a trace",
    "vhost_user_conformance/rules/devices.py": "a table: report/test_matrix.py checks it",
    "vhost_user_conformance/rules/header.py": "a table: report/test_matrix.py checks it",
    "vhost_user_conformance/rules/messages.py": "a table: report/test_matrix.py checks it",
    "vhost_user_conformance/rules/migration.py": "a table: report/test_matrix.py checks it",
    "vhost_user_conformance/rules/ring_states.py": "a table: report/test_matrix.py checks it",
    "vhost_user_conformance/rules/robustness.py": "a table: report/test_matrix.py checks it",
    # Cases of the suite are tested as a whole, by running them on our own programs
    # (tests/vhost_user_conformance), on wrong ones (tests/mutants) and on those of others
    # (tests/peers).
    "vhost_user_conformance/back_end/cases/**": "cases",
    "vhost_user_conformance/front_end/cases/**": "cases",
}

#: Test files that are of no module's name: folders that have nothing else, and single files.
ACROSS = {
    # Folders.
    "tests/backends/contract": "what every back-end device keeps",
    "tests/backends/isolation": "one connection costs one device at the most",
    "tests/bench": "bench/ itself",
    "tests/docs": "the documents",
    "tests/faults": "a fault in every phase of a migration",
    "tests/fuzz": "invariants under any input",
    "tests/hostile": "hostile peers, on every endpoint",
    "tests/mutants": "mistakes in our own endpoints, which the suite must find",
    "tests/peers": "the suite on programs of other projects",
    # The tests themselves, and rules for the whole repository.
    "tests/test_errors.py": "no exception ends a command in a traceback",
    "tests/test_interrupts.py": "SIGINT reaches the programs of tests",
    "tests/test_leftovers.py": "tests/leftovers.py",
    "tests/test_mirror.py": "this file",
    "tests/test_named_files.py": "descriptors and files that a user names, on every program",
    "tests/test_scheduling.py": "tests/scheduling.py",
    "tests/test_unix_sockets.py": "whatever binds a unix socket",
    # Contracts, and state machines of hypothesis.
    "tests/emu/commands/test_help.py": "the help texts of all commands",
    "tests/emu/machine/accel/test_contract.py": "what every accelerator keeps",
    "tests/emu/strategies/test_contract.py": "what every strategy keeps",
    "tests/emu/strategies/test_schedulers.py": "any sequence of procedures by any strategies",
    "tests/vhost_user/virtqueue/test_events.py": "notifications, with both sides of a ring",
    "tests/vhost_user/virtqueue/test_model.py": "both sides of a ring against a model",
    # Whole migrations within one process.
    "tests/emu/migration/test_cancel.py": "a cancel at any moment",
    "tests/emu/migration/test_cut.py": "a stream that breaks at any moment",
    "tests/emu/migration/test_early_stops.py": "migrations with emu/vm/early_stops.py",
    "tests/emu/migration/test_kvm.py": "migrations with real vCPUs",
    "tests/emu/migration/test_migration.py": "migrations by each strategy",
    "tests/emu/migration/test_reset.py": "a reset during pre-copy",
    # Whole runs of commands.
    "tests/emu/migration/test_convergence_cli.py": "convergence, as a user sees it",
    "tests/emu/orchestrator/network/test_netns.py": "a VM that migrates between namespaces",
    "tests/emu/report/page/test_browser.py": "the pages in a browser",
    "tests/emu/test_between.py": "a migration between two terminals",
    "tests/emu/test_monitored_runs.py": "the monitors of two runs",
    "tests/emu/test_ends.py": "signals at each stage of each command",
    "tests/emu/test_exhibits.py": "--unsafe",
    "tests/emu/test_ext4.py": "an image that another program made",
    "tests/emu/test_garbage.py": "a back-end that sends random bytes",
    "tests/emu/test_large_vms.py": "VMs with thousands of rings or hundreds of devices",
    "tests/emu/test_leaks.py": "twenty migrations leave nothing",
    "tests/emu/test_other_back_ends.py": "commands and sockets of other back-ends",
    "tests/emu/test_output_files.py": "files that commands write",
    "tests/emu/test_ring_use.py": "guests that use some rings only",
    "tests/emu/test_terminal.py": "what commands draw on a terminal",
    "tests/vhost_user_conformance/test_back_end.py": "the suite on our back-ends",
    "tests/vhost_user_conformance/test_front_end.py": "the suite on our front-end",
    "tests/vhost_user_conformance/test_null_peers.py": "the suite on programs that do nothing",
    "tests/vhost_user_conformance/test_null_back_end.py": "a back-end that does nothing",
    "tests/vhost_user_conformance/test_untimely_back_end.py": "back-ends with unusual times",
    "tests/vhost_user_conformance/front_end/cases/test_recordings.py": "cases on recordings",
    "tests/emu/tap/test_many_devices.py": "all of the tap's modules, on 40 devices",
}


def _modules() -> list[PurePosixPath]:
    """All modules of the packages, relative to the root."""
    files = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return [PurePosixPath(path.relative_to(ROOT)) for path in sorted(files)]


def _test_of(module: PurePosixPath) -> PurePosixPath:
    return PurePosixPath("tests") / module.parent / f"test_{module.name}"


def _listed(path: PurePosixPath, patterns: dict[str, str]) -> list[str]:
    """The patterns that a path is listed by."""
    return [
        pattern
        for pattern in patterns
        if str(path) == pattern or str(path).startswith(f"{pattern.removesuffix('/**')}/")
    ]


def test_each_module_has_a_test_file_of_its_name() -> None:
    """A package's ``__init__.py`` needs none."""
    missing = [
        str(module)
        for module in _modules()
        if module.name != "__init__.py"
        and not (ROOT / _test_of(module)).exists()
        and not _listed(module, WITHOUT)
    ]
    assert missing == []


def test_a_test_file_of_no_module_is_listed() -> None:
    """So a test whose module was renamed or removed does not stay behind."""
    known = {_test_of(module) for module in _modules()}
    files = (ROOT / "tests").rglob("test_*.py")
    found = [PurePosixPath(path.relative_to(ROOT)) for path in sorted(files)]
    assert [str(file) for file in found if file not in known and not _listed(file, ACROSS)] == []


def test_no_entry_is_stale() -> None:
    """Each one names a module without a test file, or a test file of no module."""
    modules = [m for m in _modules() if not (ROOT / _test_of(m)).exists()]
    listed = {pattern for module in modules for pattern in _listed(module, WITHOUT)}
    assert WITHOUT.keys() - listed == set()
    known = {_test_of(module) for module in _modules()}
    files = [PurePosixPath(p.relative_to(ROOT)) for p in (ROOT / "tests").rglob("test_*.py")]
    listed = {pattern for file in files if file not in known for pattern in _listed(file, ACROSS)}
    assert ACROSS.keys() - listed == set()
