"""``make fuzz``: runs each harness for some time, from its committed corpus on.

One harness is a process of its own: ``python -m tests.fuzz.run NAME``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from tests.fuzz.corpus import names, seeds

#: Seconds beyond its own time that a harness may take to start and to end.
_GRACE = 120


def main() -> int:
    """Returns 1 if a harness has found something."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each harness")
    parser.add_argument("--only", default="", help="names of harnesses")
    parser.add_argument("--out", type=Path, required=True, help="for new inputs and findings")
    options = parser.parse_args()
    wanted = options.only.split() or names()
    found = [name for name in wanted if _fuzz(name, options.seconds, options.out / name)]
    what = f"findings in {', '.join(found)}: see {options.out}" if found else "nothing found"
    print(f"{len(wanted)} harnesses, {options.seconds} s each: {what}")  # noqa: T201
    return int(bool(found))


def _fuzz(name: str, seconds: int, out: Path) -> bool:
    """Whether the harness has found something."""
    corpus = out / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "tests.fuzz.run", name),
        *(f"-max_total_time={seconds}", "-timeout=30", "-rss_limit_mb=4096", "-max_len=65536"),
        "-len_control=10",  # Python is slow: by default only short inputs would be tried
        *(f"-artifact_prefix={out}/", "-print_final_stats=1"),
        *(str(corpus), str(seeds(name))),
    ]
    log = out / "log"
    with log.open("wb") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, timeout=seconds + _GRACE, check=False
        )
    lines = log.read_text(errors="replace").splitlines()
    executed = [line.split()[-1] for line in lines if "number_of_executed_units" in line]
    state = f"{executed[0] if executed else '?'} inputs"
    if done.returncode:
        tail = "\n  ".join(lines[-40:])
        state += f", FOUND (status {done.returncode}):\n  {tail}"
    print(f"{name}: {state}", flush=True)  # noqa: T201
    return done.returncode != 0


if __name__ == "__main__":
    sys.exit(main())
