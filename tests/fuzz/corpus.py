"""The committed inputs of each harness: seeds, and what was found once."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def names() -> list[str]:
    """The harnesses."""
    files = (_HERE / "harnesses").glob("*.py")
    return sorted(file.stem for file in files if file.stem != "__init__")


def seeds(name: str) -> Path:
    """The folder of a harness's committed inputs."""
    return _HERE / "corpus" / name
