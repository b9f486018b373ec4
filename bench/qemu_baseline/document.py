"""Writes figures of `make qemu-baseline` into ``docs/explanation/qemu-baseline.md``."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.qemu_baseline.qemu_vm import STRATEGY
from bench.qemu_baseline.rounds import EMU, QEMU
from emu.config.device_kinds import KINDS
from emu.report.cells import counted, milliseconds, size, times

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BEGIN = "<!-- written by `python -m bench.qemu_baseline.document` -->"
END = "<!-- end -->"
DOCUMENT = "qemu-baseline.md"

Figures = list[dict[str, float]]


def document(text: str, results: Sequence[Mapping[str, Any]]) -> str:
    """The document with the figures of these results, in order.

    Args:
        text: of the document.
        results: documents of ``--json``.

    Raises:
        ValueError: the marks around the figures are missing, or a result has none.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"there is no {BEGIN!r} with an {END!r} after it")
    figures = "\n".join(line for result in results for line in section(result))
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def section(result: Mapping[str, Any]) -> Iterator[str]:
    """The lines about one result: its command, its setting, and a table for each set.

    Raises:
        ValueError: nothing was measured.
    """
    if "skipped" in result:
        raise ValueError(f"nothing was measured: {result['skipped']}")
    host, qemu, vm = result["host"], result["qemu"], result["vm"]
    loads = result["load_averages"]
    devices = ", ".join(
        f"{each['count']} {KINDS[each['class']].plural} with {counted(each['rings'], 'ring')}"
        for each in vm["devices"]
    )
    yield '<!-- run skip="it takes minutes, and needs QEMU" -->'
    yield ""
    yield f"    {result['command']}"
    yield ""
    yield (
        f"{counted(host['cpus'], 'CPU')}, load average {min(loads):.1f} to {max(loads):.1f}, Linux "
        f"{host['kernel'].partition('-')[0]}; QEMU {qemu['version']} with "
        f"{qemu['accel']}, this project with {result['accel']}; {devices}; "
        f"{counted(vm['vcpus'], 'vCPU')}, {size(vm['memory_bytes'])}; "
        f"{counted(result['rounds'], 'round')}{_incomplete(result)}. "
        "Medians in milliseconds, and the range of the gaps:"
    )
    names = dict.fromkeys(each["back_ends"] for each in result["series"])
    for name in names:
        by_vm = {each["vm"]: each for each in result["series"] if each["back_ends"] == name}
        yield ""
        yield f"| on {by_vm[QEMU]['programs']} | QEMU | this project | ratio |"
        yield "|---|---|---|---|"
        yield from _rows(by_vm[QEMU], by_vm[EMU])


def _incomplete(result: Mapping[str, Any]) -> str:
    """What the rounds lack, as an addition to their number."""
    text = ""
    if result["failures"]:
        text = f", in which {counted(len(result['failures']), 'VM')} failed"
    return text + (", interrupted before their end" if result["interrupted"] else "")


def _rows(qemu: Mapping[str, Any], emu: Mapping[str, Any]) -> Iterator[str]:
    yield _row("`stop` and `cont`: gap", "gap_ms", qemu["stops"], emu["stops"])
    yield _row("`stop`", "stop_ms", qemu["stops"], emu["stops"])
    yield _row("`cont`", "cont_ms", qemu["stops"], emu["stops"])
    theirs = qemu["migrations"].get(STRATEGY, [])
    for strategy, ours in emu["migrations"].items():
        yield _row(f"migration, `{strategy}`: gap", "gap_ms", theirs, ours)
        yield _row(f"migration, `{strategy}`: reported downtime", "downtime_ms", theirs, ours)


def _row(title: str, name: str, qemu: Figures, emu: Figures) -> str:
    cells = [_cell(name, figures) for figures in (qemu, emu)]
    ratio = ""
    # What the two programs report of a migration is not the same.
    if qemu and emu and name != "downtime_ms":
        ratio = times(_median(name, qemu) / _median(name, emu))
    return f"| {title} | {' | '.join(cells)} | {ratio} |"


def _cell(name: str, figures: Figures) -> str:
    if not figures:
        return "-"
    text = milliseconds(_median(name, figures))
    if name != "gap_ms":
        return text
    values = [each[name] for each in figures]
    return f"{text} ({milliseconds(min(values))} to {milliseconds(max(values))})"


def _median(name: str, figures: Figures) -> float:
    return statistics.median(each[name] for each in figures)


def main(directory: Path, files: Sequence[Path]) -> None:
    """Write the figures of these files into the document in this directory."""
    path = directory / DOCUMENT
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    path.write_text(document(path.read_text(encoding="utf-8"), results), encoding="utf-8")
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
