"""Texts in place of an address, for each option and each command of QMP that takes one."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from tests.hostile.cell import ANSWER, Cell, NotOk
from tests.hostile.commands.command import Commands, printed
from tests.hostile.migration.incoming import ENDED, check_reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.hostile.vm.attached import Attached

_LABEL = "a" * 64
#: ``{folder}`` is a directory. None of them can be connected to.
_TEXTS = (
    "",
    ":",
    "::",
    " ",
    "x",
    "tcp",
    "tcp:",
    "tcp::",
    "tcp:::",
    "tcp:1",
    "tcp::1",
    "tcp:localhost",
    "tcp:localhost:",
    "tcp:localhost:x",
    "tcp:localhost:-1",
    "tcp:localhost:+1",
    "tcp:localhost: 1",
    "tcp:localhost:1 ",
    "tcp:localhost:1_0",
    "tcp:localhost:0x1",
    "tcp:localhost:1.0",
    "tcp:localhost:1e3",
    "tcp:localhost:65536",
    "tcp:localhost:99999",
    "tcp:localhost:4294967297",
    "tcp:localhost:" + "9" * 5000,
    "tcp:localhost:\u00b2",
    "tcp:localhost:\uff11",
    "tcp:localhost:\u0663",
    "tcp:localhost:1:1",
    "tcp:127.0.0.1:1\n",
    "tcp:127.0.0.1\n:1",
    "tcp:127.0.0.256:1",
    "tcp:127.0.0:x",
    "tcp:[]:1",
    "tcp:[::1:1",
    "tcp:::1]:1",
    "tcp:[::1]",
    "tcp:[::1]1",
    "tcp:[::1]:",
    "tcp:[::g]:1",
    "tcp:[::1%]:1",
    "tcp:[::1%nowhere]:1",
    "tcp:[::1%" + "x" * 16 + "]:1",
    "tcp:[127.0.0.1]:1",
    "tcp:[:::]:1",
    "tcp:[" + ":" * 100 + "]:1",
    f"tcp:{_LABEL}:1",
    f"tcp:{_LABEL}.invalid:1",
    "tcp:.:1",
    "tcp:..:1",
    "tcp:.invalid:1",
    "tcp:a..invalid:1",
    "tcp:invalid.:1",
    "tcp:-:1",
    "tcp:_.invalid:1",
    "tcp:" + "a." * 200 + "invalid:1",
    "tcp:" + "a" * 100_000 + ":1",
    "tcp:é.invalid:1",
    "tcp:ÿ:1",
    "tcp:\u200d:1",
    "tcp:\u202e.invalid:1",
    "tcp:💥:1",
    "tcp:xn--:1",
    "tcp:xn--a.invalid:1",
    "tcp:\udcff:1",
    "tcp:\x1b[2J:1",
    "tcp:%s%n:1",
    "tcp:user@127.0.0.1:x",
    "tcp://127.0.0.1:1",
    "TCP:127.0.0.1:1",
    "udp:127.0.0.1:1",
    "fd:3",
    "exec:true",
    "vsock:1:1",
    "file:/dev/null",
    "http://127.0.0.1:1/",
    "unix",
    "unix:",
    "unix:{folder}",
    "unix:{folder}/",
    "unix:{folder}/missing/name",
    "unix:/dev/null",
    "unix:/dev/null/name",
    "unix:/",
    "unix:.",
    "unix:" + "x" * 108,
    "unix:" + "x" * 100_000,
    "unix:" + "é" * 54,
    "unix:{folder}/a\nb/c",
    "unix:{folder}/\x1b[2J/c",
    "unix:{folder}/\udcff/c",
    "unix://",
    "UNIX:{folder}/name",
    "Unix:{folder}/name",
)
#: What is only wrong to connect to.
_UNREACHABLE = (
    "tcp:127.0.0.1:0",
    "tcp:127.0.0.1:1",
    "tcp:localhost:1",
    "tcp:[::1]:1",
    "unix:{folder}/missing",
    "unix:\0name",
)
#: What can be listened at, and is not.
_LISTENS = (
    "tcp:127.0.0.1:0",
    "tcp:localhost:0",
    "tcp:127.1:0",
    "tcp:LOCALHOST:0",
    "unix:{folder}/name",
    "unix:{folder}/a\nb",
    "unix:{folder}/é",
    "unix:{folder}/\udcff",
    "unix:{folder}/ ",
    "unix:{folder}/a,b:c",
)
_SHAPE = ("--net", "1x2", "--blk", "0", "--vcpus", "1", "--memory", "64M", "--accel", "soft")


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    for text in (*_TEXTS, *_UNREACHABLE):
        if "\0" not in text:  # no command has such an argument
            yield _cell("emu migrate --to", text, "command", partial(_to, text))
        yield _cell("QMP migrate", text, "attach", partial(_asked, text))
    for text in _TEXTS:
        yield _cell("emu run --incoming", text, "command", partial(_incoming, text))
    for text in _LISTENS:
        yield _cell("emu run --incoming, listens", text, "command", partial(_listens, text))


def _cell(place: str, text: str, program: str, attack: object) -> Cell:
    name = ascii(text) if len(text) < 60 else f"{text[:20]!a}, {len(text)} characters"
    return Cell("addresses", place, name, program, attack)  # type: ignore[arg-type]


def _to(text: str, on: Commands) -> None:
    uri = text.replace("{folder}", str(on.folder))
    ended = on.command(("emu", "migrate", "--to", uri, *_SHAPE, "-q", "--deadline", "1s"))
    if not ended.status:
        raise NotOk("it has succeeded")


def _incoming(text: str, on: Commands) -> None:
    uri = text.replace("{folder}", str(on.folder))
    ended = on.command(
        ("emu", "run", "--incoming", uri, *_SHAPE, "--for", "1s"), stop=printed("waiting for a VM")
    )
    if not ended.status:
        raise NotOk("it has succeeded")
    if any("waiting for a VM" in line for line in ended.lines):
        raise NotOk("it listens")


def _listens(text: str, on: Commands) -> None:
    uri = text.replace("{folder}", str(on.folder))
    ended = on.command(
        ("emu", "run", "--incoming", uri, *_SHAPE, "--for", "1s"), stop=printed("waiting for a VM")
    )
    if not any("waiting for a VM" in line for line in ended.lines):
        raise NotOk(f"it does not listen: {ended.lines[-1:]}")
    if left := [path.name for path in on.folder.iterdir()]:
        raise NotOk(f"left behind: {left}")


def _asked(text: str, on: Attached) -> None:
    uri = text.replace("{folder}", str(on.folder))
    client = on.client()
    client.ask("qmp_capabilities")
    client.ask("migrate-set-parameters", **{"x-deadline": 1.0})
    answer = client.ask("migrate", uri=uri)
    if "error" in answer:
        check_reason({"status": "failed", "error-desc": answer["error"]["desc"]})
        return
    ended = client.migration_end(ENDED, 2 * ANSWER)
    if ended["status"] != "failed":
        raise NotOk(f"the migration has {ended['status']}")
    check_reason(ended)
