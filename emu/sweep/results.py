"""The results of a sweep that can be resumed: a directory of Parquet files, one for each point.

A file appears, complete, when its point is finished: whatever ends the sweep, the finished points
are there. Programs that read a Parquet data set read the directory as one table, with a row for
each migration. ``_settings.json``, which they skip, has the settings that all points share.
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Self

from emu.config.device_kinds import KINDS
from emu.errors import EmuError, OptionError, PreflightError
from emu.json_input import JsonInputError, Map, Members, check, parse, read
from emu.report.page.documents import MIGRATIONS
from emu.report.results import totals
from emu.sweep.point import PointResult
from vhost_user import input_file, output_file
from vhost_user.one_line import one_line

if TYPE_CHECKING:
    from pathlib import Path

    from emu.config.plan import MigrationPlan
    from emu.qmp.protocol import JsonObject
    from emu.sweep.matrix import SweepPoint

#: Of the files' format.
SCHEMA = 1
SETTINGS = "_settings.json"
#: Metadata of a file: the point's document without its runs, and why the point has failed.
METADATA = b"vhost_emu.sweep"
_METADATA = Members({"head": Map(object), "failure": str})
#: Bytes of the settings, and characters of one of them in an error.
_MAX_SETTINGS, _SHOWN = 1 << 20, 80
_FIGURES = ("downtime_ms", "guest_gap_ms", "network_gap_ms", "stop_ms", "start_ms")
_COUNTS = ("commits", "requests_in_flight_at_stop")
_INTEGRITY = ("requests", "lost", "duplicated", "corrupted", "packets_lost")
#: Columns of the host's properties, and their types.
_HOST = {
    **dict.fromkeys(("cpus", "memory_bytes"), "int64"),
    **dict.fromkeys(("kernel", "machine", "python", "vhost_emu"), "string"),
}


def settings_of(plan: MigrationPlan) -> JsonObject:
    """What the points of a sweep have in common: results of other settings are not mixed in.

    Args:
        plan: of any point.
    """
    machine = plan.machine
    return {
        "schema": SCHEMA,
        "vhost_emu": version("vhost-emu"),
        "vcpus": machine.spec.vcpus,
        "memory_bytes": machine.spec.memory_bytes,
        "ring_size": machine.spec.ring_size,
        "strategies": list(plan.strategies),
        "repeat": plan.repeat,
        "load": machine.load,
        "dirty_rate": machine.dirty_rate,
        "costs": machine.costs,
        "control": machine.control,
        "stop_policy": machine.stop_policy,
        "stop_time_ns": machine.stop_time,
        "disk": None if machine.disk is None else str(machine.disk.path),
        "disk_writable": machine.disk is not None and machine.disk.writable,
        "back_ends": {name: list(command.words) for name, command in machine.back_ends.items()},
        "plugins": [str(path) for path in machine.plugins],
        "options": dict(plan.options),
        "parameters": plan.parameters.to_json(),
        "strict_downtime": plan.strict_downtime,
    }


class ResultsDirectory:
    """The results of one sweep, as a context manager; no other sweep uses it at the same time.

    Args:
        path: of the directory; its parent exists.
        settings: of `settings_of`.

    Attributes:
        path: of the directory.

    Raises:
        OptionError: it has the results of other settings, or pyarrow is missing.
        EmuError: it cannot be made, has something else, or another sweep uses it.
    """

    def __init__(self, path: Path, settings: JsonObject) -> None:
        if find_spec("pyarrow") is None:
            raise OptionError("--results needs pyarrow: pip install 'vhost-emu[cluster]'")
        self.path = path
        self._lock = -1
        try:
            self._open(json.loads(json.dumps(settings)))
        except OSError as error:
            self.close()
            raise PreflightError(f"--results {path}: {error.strerror}") from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another sweep use the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _open(self, settings: JsonObject) -> None:
        with suppress(FileExistsError):
            self.path.mkdir()
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PreflightError(f"--results {self.path}: another sweep uses it") from None
        for part in self.path.glob(".*.part"):  # of a sweep that was killed while it wrote
            part.unlink()
        file = self.path / SETTINGS
        if file.exists():
            self._compare(file, settings)
        elif any(self.path.iterdir()):
            raise PreflightError(f"--results {self.path}: it has other files than results")
        else:
            output_file.write(file, json.dumps(settings, indent=1) + "\n")

    def _compare(self, file: Path, settings: JsonObject) -> None:
        try:
            kept = read(input_file.read(file, _MAX_SETTINGS), Map(object))
        except JsonInputError as error:
            raise PreflightError(f"--results {file}: {error}") from None
        for name in {**settings, **kept}:
            there, here = kept.get(name), settings.get(name)
            if there != here:
                texts = [one_line(json.dumps(value), _SHOWN) for value in (there, here)]
                raise OptionError(
                    f"--results {self.path}: it has results of other settings: {name} is "
                    f"{texts[0]} there, and {texts[1]} here"
                )

    def _file(self, point: SweepPoint) -> Path:
        return self.path / f"{point.key}.parquet"

    def load(self, point: SweepPoint) -> PointResult | None:
        """The result of a point; None if the point is not finished.

        Raises:
            EmuError: the file cannot be read, or is not one that `save` has written.
        """
        file = self._file(point)
        if not file.exists():
            return None
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table

        try:
            table = read_table(file, columns=["run"], partitioning=None)
            known = read((table.schema.metadata or {}).get(METADATA, b""), _METADATA)
            runs = [parse(text) for text in table.column("run").to_pylist()]
            document = {**known["head"], "runs": runs}
            check(document, MIGRATIONS)
        except (ArrowException, OSError, JsonInputError, KeyError) as error:
            reason = one_line(str(error), 200)
            raise EmuError(f"{file} is not a point's result, remove it: {reason}") from None
        return PointResult(document, known["failure"], complete=True)

    def save(self, point: SweepPoint, result: PointResult) -> None:
        """Keep the result of a point whose migrations were all finished.

        Raises:
            EmuError: it cannot be written.
        """
        import pyarrow as pa
        from pyarrow.parquet import write_table

        document = result.document or {}
        head = {name: value for name, value in document.items() if name != "runs"}
        metadata = {METADATA: json.dumps({"head": head, "failure": result.failure}).encode()}
        types = _columns()
        rows = [_row(point, head, run) for run in document["runs"]]
        schema = pa.schema(list(types.items()), metadata=metadata)
        sink = pa.BufferOutputStream()
        write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
        try:
            output_file.write(self._file(point), sink.getvalue().to_pybytes())
        except OSError as error:
            raise EmuError(f"--results {self._file(point)}: {error.strerror}") from None


def _columns() -> dict[str, str]:
    """The columns of a file and their types."""
    groups = [f"{name}_{what}" for name in KINDS for what in ("devices", "rings")]
    return {
        **dict.fromkeys(("point", "accel", "strategy"), "string"),
        "repeat": "int64",
        "outcome": "string",
        **dict.fromkeys(("vcpus", "memory_bytes", "devices", "rings", *groups), "int64"),
        **dict.fromkeys(_FIGURES, "float64"),
        **dict.fromkeys((*_COUNTS, *_INTEGRITY), "int64"),
        **{f"host_{name}": kind for name, kind in _HOST.items()},
        "run": "string",
    }


def _row(point: SweepPoint, head: JsonObject, run: JsonObject) -> dict[str, Any]:
    vm, host, integrity = head["vm"], head["host"], run["integrity"] or {}
    devices, rings = totals(vm["devices"])
    row: dict[str, Any] = {
        "point": point.key,
        "accel": head["accel"],
        "strategy": run["strategy"],
        "repeat": run["repeat"],
        "outcome": run["outcome"],
        "vcpus": vm["vcpus"],
        "memory_bytes": vm["memory_bytes"],
        "devices": devices,
        "rings": rings,
        "run": json.dumps(run),
    }
    for name in KINDS:
        own = [group for group in vm["devices"] if group["class"] == name]
        row[f"{name}_devices"] = sum(group["count"] for group in own)
        row[f"{name}_rings"] = own[0]["rings"] if own else 0
    row |= {name: run[name] for name in (*_FIGURES, *_COUNTS)}
    row |= {name: integrity.get(name) for name in _INTEGRITY}
    return row | {f"host_{name}": host[name] for name in _HOST}
