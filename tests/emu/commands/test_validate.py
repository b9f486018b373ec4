"""Validation of options before a process is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emu.commands import validate
from emu.config.device_kinds import KINDS
from emu.config.vm_spec import DeviceGroup, VmSpec
from emu.errors import OptionError, PreflightError
from emu.machine.accel.registry import resolve
from emu.orchestrator import host_limits
from emu.strategies.registry import STRATEGIES
from tests.timeouts import PROGRAM_TIMEOUT

SMALL = VmSpec(2, 256 << 20, (DeviceGroup("blk", 1, 1),))


def shape(**options: Any) -> VmSpec:
    """The VM that options describe."""
    devices = {name: options.pop(name, None) for name in KINDS}
    return validate.shape(devices, **options)


def test_the_default_is_the_vm_of_the_rfc() -> None:
    """An option changes one property only."""
    assert shape() == VmSpec()
    assert shape(net="2x4", memory="1G") == VmSpec(
        224, 1 << 30, (DeviceGroup("net", 2, 4), DeviceGroup("blk", 24, 4))
    )
    assert shape(net="0").groups == (DeviceGroup("blk", 24, 4),)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"net": "16"}, "--net '16' is not a shape"),
        ({"net": "1x3"}, "come in pairs"),
        ({"blk": "1x257"}, "at most 256 rings"),
        ({"blk": "0x4"}, "count must be 1"),
        ({"memory": "12Q"}, "--memory '12Q' is not a size"),
        ({"memory": "-1G"}, "is not a size"),
        ({"memory": "99999T"}, "at most 16T"),
        ({"memory": "1M"}, "at least 64M"),
        ({"vcpus": 0}, "0 vCPUs"),
        ({"net": "0", "blk": "0"}, "at least one device"),
    ],
)
def test_an_invalid_vm_is_one_line(options: dict[str, Any], line: str) -> None:
    """With the status of a usage error."""
    with pytest.raises(OptionError) as caught:
        shape(**options)
    assert line in str(caught.value)


def test_a_file_and_options_exclude_each_other(tmp_path: Path) -> None:
    """The error names the option."""
    with pytest.raises(OptionError, match="leave --blk out"):
        shape(file=tmp_path / "vm.toml", blk="1x1")


def test_strategies_keep_their_order() -> None:
    """And none is named twice; more runs are what --repeat is for."""
    names = [strategy.NAME for strategy in validate.strategies("split, threads")]
    assert names == ["split", "threads"]
    with pytest.raises(OptionError, match="split is there twice; see --repeat"):
        validate.strategies("split, threads,split")


def test_all_is_each_known_strategy() -> None:
    """In the order of the table."""
    assert validate.strategies("all") == tuple(STRATEGIES.values())


@pytest.mark.parametrize("text", ["c", "", "split,,threads", "split,", " "])
def test_an_unknown_strategy_is_refused_with_the_known_ones(text: str) -> None:
    """An empty name is unknown too."""
    with pytest.raises(OptionError, match="use one of qemu-2021, "):
        validate.strategies(text)


def test_the_error_of_a_duration_names_its_option() -> None:
    """And the invalid text."""
    assert validate.duration("--stop-time", "20ms") == 20_000_000
    with pytest.raises(OptionError, match="--stop-time '20' is not a duration"):
        validate.duration("--stop-time", "20")


def test_the_size_of_a_disk_is_that_of_its_file(tmp_path: Path) -> None:
    """The path is absolute."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024))
    disk = validate.disk(path, SMALL, write=True)
    assert disk is not None
    assert (disk.size, disk.writable) == (1024, True)
    assert validate.disk(None, SMALL, write=False) is None


def test_an_invalid_disk_is_one_line(tmp_path: Path) -> None:
    """With the reason."""
    odd, empty, fifo = tmp_path / "odd", tmp_path / "empty", tmp_path / "fifo"
    odd.write_bytes(bytes(1000))
    empty.touch()
    os.mkfifo(fifo)
    cases = {
        tmp_path / "none": "No such file",
        tmp_path: "neither a file nor a block device",
        odd: "1000 bytes is not a multiple of 512",
        empty: "is empty",
        fifo: "neither a file nor a block device",
    }
    for path, line in cases.items():
        with pytest.raises(PreflightError) as caught:
            validate.disk(path, SMALL, write=False)
        assert line in str(caught.value)
        assert str(path) in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_disk_is_one_line(tmp_path: Path) -> None:
    """With the text of the errno."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    path.chmod(0)
    with pytest.raises(PreflightError, match="Permission denied"):
        validate.disk(path, SMALL, write=False)


def test_a_disk_needs_a_disk_and_write_needs_a_file(tmp_path: Path) -> None:
    """The error names the missing option."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(512))
    with pytest.raises(PreflightError, match="no disk to put it behind"):
        validate.disk(path, VmSpec(groups=(DeviceGroup("net", 1, 2),)), write=False)
    with pytest.raises(OptionError, match="--write"):
        validate.disk(None, SMALL, write=True)


def test_an_unwritable_path_of_the_results_is_refused(tmp_path: Path) -> None:
    """Before the run, not after it."""
    validate.output_file("--json", tmp_path / "new.json")
    validate.output_file("--json", None)
    with pytest.raises(PreflightError, match="is neither a file nor a pipe"):
        validate.output_file("--json", tmp_path)
    with pytest.raises(PreflightError, match="there is no directory"):
        validate.output_file("--json", tmp_path / "no" / "new.json")


def test_binary_data_may_go_to_whatever_is_no_terminal(tmp_path: Path) -> None:
    """Whoever writes it reports that it cannot be written."""
    (tmp_path / "file").touch()
    for name in (str(tmp_path / "file"), str(tmp_path / "none"), "/dev/null", "/none/x"):
        validate.binary_output("--png", Path(name))
    validate.binary_output("--png", None)
    primary, secondary = os.openpty()
    try:
        with pytest.raises(OptionError, match="a terminal cannot show binary data"):
            validate.binary_output("--png", Path(os.ttyname(secondary)))
    finally:
        os.close(primary)
        os.close(secondary)


@pytest.mark.parametrize(
    ("vcpus", "rings", "line"),
    [(1000, 4, "vCPUs: kvm has at most"), (4, 64, "1980 ioeventfds: ask for fewer rings")],
)
def test_a_vm_that_is_too_large_for_kvm_is_one_line(vcpus: int, rings: int, line: str) -> None:
    """With another accelerator as advice; `auto` selects it."""
    spec = VmSpec(vcpus, 1 << 30, (DeviceGroup("blk", 32, rings),))
    try:
        host_limits.check_accelerator("kvm", SMALL)
    except PreflightError as error:
        pytest.skip(str(error))
    with pytest.raises(PreflightError, match=f"--accel kvm: .*{line}"):
        host_limits.check_accelerator("kvm", spec)
    assert resolve("auto", vcpus=vcpus, rings=spec.rings) == "soft"
    assert resolve("auto", vcpus=SMALL.vcpus, rings=SMALL.rings) == "kvm"


def test_a_host_without_kvm_is_one_line_and_auto_still_works() -> None:
    """``auto`` is then the soft accelerator."""
    hidden = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    program = "mount -t tmpfs none /dev && exec \"$0\" -c '{}'"
    line = "import sys; from emu.machine.accel.registry import resolve; from emu.cli import main; "
    line += 'assert resolve("auto") == "soft"; '
    line += 'sys.argv[1:] = ["migrate", "--accel", "kvm"]; main()'
    if subprocess.run([*hidden, "mount -t tmpfs none /dev"], check=False).returncode:
        pytest.skip("no user namespaces here")
    result = subprocess.run(
        [*hidden, program.format(line), sys.executable],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROGRAM_TIMEOUT,
    )
    assert result.returncode == 1
    if "this build is without KVM" not in result.stderr:
        assert result.stderr.startswith("emu: --accel kvm: /dev/kvm is missing: load the module")
    assert result.stderr.count("\n") == 1
