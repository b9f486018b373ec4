"""``vhost-emu-rng``: its source, and its rings."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.backends.programs import RNG, rig_at
from tests.backends.served import program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.backends.rig import Rig


def fill(rig: Rig, size: int) -> bytes:
    """What the device writes to a buffer."""
    gpa, data = rig.alloc(size)
    rig.rings[0].add([], [(gpa, size)])
    assert rig.rings[0].wait().written == size
    return bytes(data)


def test_it_serves_random_bytes_by_default(tmp_path: Path) -> None:
    path = str(tmp_path / "rng.sock")
    with program([*RNG, "--socket-path", path]), rig_at(path, 1) as rig:
        rig.start()
        assert fill(rig, 64) != fill(rig, 64)


def test_its_devices_share_one_source(tmp_path: Path) -> None:
    """A file is read from its beginning again when it ends."""
    source, paths = tmp_path / "source", [str(tmp_path / name) for name in ("a", "b")]
    source.write_bytes(bytes(range(96)))
    arguments = [*RNG, "--rng-source", str(source)]
    for path in paths:
        arguments += ["--socket-path", path]
    with program(arguments), rig_at(paths[0], 1) as first, rig_at(paths[1], 1) as second:
        first.start()
        second.start()
        assert fill(first, 64) == bytes(range(64))
        assert fill(second, 32) == bytes(range(64, 96))
        assert fill(first, 32) == bytes(range(32))
