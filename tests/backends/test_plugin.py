"""Device classes from a file, and from an installed distribution."""
# ruff: noqa: D102, D103 - the names say what they are about

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, EntryPoints
from typing import TYPE_CHECKING

import pytest

from backends.plugin import GROUP, PluginError, check, from_entry_point, from_file
from backends.virtio_device import VirtioDevice

if TYPE_CHECKING:
    from pathlib import Path

    from backends.ring import Ring
    from vhost_user.virtqueue import Chain

HEAD = "from backends.virtio_device import VirtioDevice\n"
ONE = HEAD + "class One(VirtioDevice):\n    pass\n"
TWO = ONE + "class Two(One):\n    pass\n"


def written(folder: Path, text: str, name: str = "device.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_the_only_class_of_a_file(tmp_path: Path) -> None:
    """A class that the file imports does not count."""
    assert from_file(written(tmp_path, ONE)).__name__ == "One"


@pytest.mark.parametrize("name", ["One", "Two"])
def test_a_class_by_its_name(tmp_path: Path, name: str) -> None:
    assert from_file(written(tmp_path, TWO), name).__name__ == name


def test_a_file_imports_its_neighbour(tmp_path: Path) -> None:
    written(tmp_path, ONE, "neighbour_of_a_plugin.py")
    text = "from neighbour_of_a_plugin import One\nclass Mine(One):\n    pass\n"
    assert from_file(written(tmp_path, text)).__name__ == "Mine"


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (HEAD, None, "not exactly one device class; it has: none"),
        (TWO, None, "not exactly one device class; it has: One, Two"),
        (TWO, "Three", "no device class Three; it has: One, Two"),
        ("class One:\n    pass\n", "One", "no device class One; it has: none"),
        ("1 / 0\n", None, "ZeroDivisionError: division by zero"),
        ("def\n", None, "SyntaxError: "),
        (None, None, "it is not a Python file"),
    ],
)
def test_files_without_a_device_class(
    tmp_path: Path, text: str | None, name: str | None, message: str
) -> None:
    path = str(tmp_path / "none.py") if text is None else written(tmp_path, text)
    with pytest.raises(PluginError, match=re.escape(message)) as error:
        from_file(path, name)
    assert str(error.value).startswith(path)


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three distributions: one that is right, one that is missing, one that is something else."""
    points = EntryPoints(
        EntryPoint(name, value, GROUP)
        for name, value in (
            ("right", "backends.net_device:NetDevice"),
            ("missing", "no_such_distribution:Device"),
            ("other", "backends.loop:Loop"),
        )
    )
    monkeypatch.setattr("importlib.metadata.entry_points", points.select)


def test_links_in_a_loop(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(PluginError, match="link: "):
        from_file(str(tmp_path / "link"))


@pytest.mark.usefixtures("_installed")
def test_an_entry_point() -> None:
    assert from_entry_point("right").__name__ == "NetDevice"


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("left", "no such entry point in the group vhost_emu.backends; installed: missing, other"),
        ("missing", "cannot be imported: No module named 'no_such_distribution'"),
        ("other", "backends.loop:Loop is not a subclass of VirtioDevice"),
    ],
)
def test_entry_points_without_a_device_class(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        from_entry_point(name)


class Sized(VirtioDevice):
    """A device with an option, and one that it needs."""

    def __init__(self, *args: object, size: str, color: str = "") -> None:
        raise NotImplementedError

    def serve(self, ring: Ring, chain: Chain) -> int:
        raise NotImplementedError


def test_options_are_checked_before_a_device_is_made() -> None:
    check(Sized, {"size": "1"})
    check(Sized, {"size": "1", "color": "red"})
    for options in ({}, {"color": "red"}, {"size": "1", "weight": "2"}):
        with pytest.raises(PluginError, match="Sized: "):
            check(Sized, options)


def test_a_class_that_serves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="One: has neither"):
        check(from_file(written(tmp_path, ONE)), {})
