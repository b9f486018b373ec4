"""Whatever can be at a path, or be called so, for each option that names a file or a socket."""

from __future__ import annotations

import itertools
import os
import random
import socket
import subprocess
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from tests.emu.migration.certificates import Authority
from tests.hostile.cell import ANSWER, Cell, NotOk
from tests.hostile.commands.command import Commands, Ended, printed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SMALL = ("--net", "1x2", "--blk", "1x1", "--vcpus", "1", "--memory", "64M", "--accel", "soft", "-q")
#: Bytes that a command may have mapped where a file is larger than any memory.
_ADDRESS_SPACE = 8 << 30
_SECTOR = 512


class Thing(NamedTuple):
    """Something at a path.

    Attributes:
        make: makes it, in the cell's directory, and returns its path.
        fails: a command that uses it cannot succeed.
        before: words before the command, which take rights or memory from it.
    """

    make: Callable[[Commands], str | bytes]
    fails: bool = False
    before: tuple[str, ...] = ()


def _put(
    name: str | bytes, content: bytes, *, mode: int = 0o644
) -> Callable[[Commands], str | bytes]:
    def make(on: Commands) -> str | bytes:
        path = on.folder / os.fsdecode(name)
        path.write_bytes(content)
        path.chmod(mode)
        return bytes(path) if isinstance(name, bytes) else str(path)

    return make


def _named(name: str) -> Callable[[Commands], str]:
    return lambda on: str(on.folder / name)


def _exactly(name: str) -> Callable[[Commands], str]:
    return lambda _: name


def _below_a_file(on: Commands) -> str:
    (on.folder / "file").touch()
    return str(on.folder / "file" / "name")


def _directory(on: Commands) -> str:
    (on.folder / "directory").mkdir()
    return str(on.folder / "directory")


def _fifo(on: Commands) -> str:
    os.mkfifo(on.folder / "fifo")
    return str(on.folder / "fifo")


def _read_fifo(on: Commands) -> str:
    """One that a process reads: a program that writes to another one waits, as all do."""
    path = _fifo(on)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)  # the reader sees no end
    on.owned.callback(os.close, fd)
    reader = on.owned.enter_context(subprocess.Popen(["cat"], stdin=fd, stdout=subprocess.DEVNULL))
    on.owned.callback(reader.kill)
    return path


def _link(to: str) -> Callable[[Commands], str]:
    def make(on: Commands) -> str:
        (on.folder / "link").symlink_to(to)
        return str(on.folder / "link")

    return make


def _sparse(on: Commands) -> str:
    path = on.folder / "sparse"
    path.touch()
    os.truncate(path, 16 << 30)
    return str(path)


def _stale(on: Commands) -> str:
    path = str(on.folder / "stale")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
    return path


def _bound(on: Commands, kind: socket.SocketKind, *, listens: bool = False) -> str:
    path = str(on.folder / "bound")
    sock = socket.socket(socket.AF_UNIX, kind)
    on.owned.callback(sock.close)
    sock.bind(path)
    if listens:
        sock.listen(8)
    return path


def _closed_directory(on: Commands) -> str:
    (on.folder / "closed").mkdir()
    (on.folder / "closed" / "file").write_bytes(bytes(_SECTOR))
    (on.folder / "closed").chmod(0)
    on.owned.callback((on.folder / "closed").chmod, 0o700)
    return str(on.folder / "closed" / "file")


def _full(on: Commands) -> str:
    (on.folder / "full").mkdir()
    return str(on.folder / "full" / "name")


#: Mounts a file system without a free block for a command, in a mount namespace of its own.
_FULL = (
    *("unshare", "--mount", "--map-root-user", "sh", "-c"),
    'mount -t tmpfs -o size=4k none "$0" && head -c 4096 /dev/zero > "$0/fill" && exec "$@"',
)

#: Root may open any file, whatever its mode is.
_NO_RIGHTS = (
    ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)

#: What all options have to cope with.
_ANY = {
    "missing": Thing(_named("missing")),
    "in a missing directory": Thing(_named("missing/name"), fails=True),
    "below a file": Thing(_below_a_file, fails=True),
    "a directory": Thing(_directory),
    "/": Thing(_exactly("/")),
    "a name of 256 bytes": Thing(_named("x" * 256), fails=True),
    "a path of 5000 bytes": Thing(_named("x/" * 2500), fails=True),
    "an empty name": Thing(_exactly("")),
    "a FIFO": Thing(_fifo),
    "/dev/null": Thing(_exactly("/dev/null")),
    "/dev/full": Thing(_exactly("/dev/full")),
    "a link to itself": Thing(_link("link"), fails=True),
    "a link to nothing": Thing(_link("nothing")),
    "a stale socket": Thing(_stale),
    "a listening socket": Thing(lambda on: _bound(on, socket.SOCK_STREAM, listens=True)),
    "a bound socket": Thing(lambda on: _bound(on, socket.SOCK_STREAM)),
    "a datagram socket": Thing(lambda on: _bound(on, socket.SOCK_DGRAM)),
    "in a closed directory": Thing(_closed_directory, fails=True, before=_NO_RIGHTS),
}
#: What can be read in place of the right contents.
_CONTENTS = {
    "an empty file": Thing(_put("empty", b"")),
    "a byte": Thing(_put("byte", b"\0")),
    "a sector": Thing(_put("sector", bytes(_SECTOR))),
    "a sector and a byte": Thing(_put("odd", bytes(_SECTOR + 1))),
    "noise": Thing(_put("noise", random.Random(7).randbytes(1 << 16))),
    "text": Thing(_put("text", b"hello, world\n" * 100)),
    "not UTF-8": Thing(_put("latin", b"# \xe9\xff\n" * 100)),
    "100000 brackets": Thing(_put("nested", b"a = " + b"[" * 100_000)),
    "a number of 5000 digits": Thing(_put("digits", b"vcpus = " + b"9" * 5000 + b"\n")),
    "an infinite number": Thing(_put("inf", b"vcpus = inf\nmemory = nan\n")),
    "16 GiB without contents": Thing(_sparse, before=("prlimit", f"--as={_ADDRESS_SPACE}", "--")),
    "may not be read": Thing(_put("secret", bytes(_SECTOR), mode=0), fails=True, before=_NO_RIGHTS),
    "a name that is not UTF-8": Thing(_put(b"\xff\xfe", bytes(_SECTOR))),
    "a name with a newline": Thing(_put("a\nb", bytes(_SECTOR))),
    "a name with an escape": Thing(_put("a\x1b[2Jb", bytes(_SECTOR))),
    "/dev/zero": Thing(_exactly("/dev/zero"), before=("prlimit", f"--as={_ADDRESS_SPACE}", "--")),
    "/dev/urandom": Thing(
        _exactly("/dev/urandom"), before=("prlimit", f"--as={_ADDRESS_SPACE}", "--")
    ),
    "/dev/tty": Thing(_exactly("/dev/tty"), fails=True),
    "/proc/self/mem": Thing(_exactly("/proc/self/mem")),
}
#: What can be in the way of a new file or socket.
_TARGETS = {
    "a FIFO": Thing(_read_fifo),
    "a link to itself": Thing(_link("link")),  # a new file takes its place
    "a file": Thing(_put("file", b"contents")),
    "a file that may not be written": Thing(
        _put("kept", b"contents", mode=0o444), before=_NO_RIGHTS
    ),
    "on a full file system": Thing(_full, before=_FULL),
    "a name that is not UTF-8": Thing(lambda on: os.fsencode(on.folder) + b"/\xff\xfe"),
    "a name with a newline": Thing(_named("a\nb")),
    "a name with an escape": Thing(_named("a\x1b[2Jb")),
    "a path of 107 bytes": Thing(lambda on: f"{on.folder}/".ljust(107, "x")),
    "a path of 108 bytes": Thing(lambda on: f"{on.folder}/".ljust(108, "x")),
    "a path of 200 bytes": Thing(lambda on: f"{on.folder}/".ljust(200, "x")),
}


class Option(NamedTuple):
    """An option that names a file, or a socket.

    Attributes:
        argv: the command before it.
        name: the option.
        things: what is tried.
        rest: the arguments after it; ``{folder}`` is a directory of the cell.
        serves: it is a back-end program, which runs until it is ended.
        words: of a line with which the command waits for more, and is ended.
        suffix: of a file's name, where it matters.
    """

    argv: tuple[str, ...]
    name: str
    things: dict[str, Thing]
    rest: tuple[str, ...] = ()
    serves: bool = False
    words: str = ""

    @property
    def place(self) -> str:
        """For the cells' names."""
        words = itertools.takewhile(lambda word: not word.startswith("-"), self.argv)
        return " ".join((*words, *(word for word in self.argv if word == "--list"), self.name))


_INPUTS, _OUTPUTS = {**_ANY, **_CONTENTS}, {**_ANY, **_TARGETS}
_SOME = (
    "missing",
    "a directory",
    "a FIFO",
    "noise",
    "an empty file",
    "/dev/full",
    "/dev/zero",
    "a file that may not be written",
    "on a full file system",
)


#: Refused before anything is started, on the commands whose whole run takes long.
_REFUSED = ("a directory", "a FIFO", "noise", "an empty file", "below a file")


def _refused(things: dict[str, Thing]) -> dict[str, Thing]:
    """For an option of `emu migrate` and `emu sweep` that `emu run` has, too."""
    return {name: thing for name, thing in things.items() if name in _REFUSED}


def _some(things: dict[str, Thing]) -> dict[str, Thing]:
    """For an option that another command has, too."""
    return {name: thing for name, thing in things.items() if name in _SOME}


_RUN = ("emu", "run", "--for", "0.1s")
_TLS = ("--tls-cert", "{folder}/ca-own.crt", "--tls-key", "{folder}/ca-own.key", "--tls-ca")
_INCOMING = ("emu", "run", "--incoming", "tcp:127.0.0.1:0", "--images", "{folder}")
_NO_QUIET = tuple(word for word in SMALL if word != "-q")
_BLK = ("vhost-emu-blk", "--blk-file", "{folder}/disk")
_NET = ("vhost-emu-net",)
_RNG = ("vhost-emu-rng",)
_SERVE = ("vhost-emu-serve", "--plugin", "{folder}/plugin.py")
_HERE = ("--socket-path", "{folder}/served")
_SERVED = (*_HERE, "--num-queues", "2")

_TAP = ("emu", "tap", "--for", "0.1s")
_TAPPED = ("--listen", "{folder}/here", "--connect", "{folder}/none", "-q")


def _shape_of(kind: str) -> tuple[str, ...]:
    """The options of a VM with one device of this kind."""
    shapes = {"net": "1x2", "blk": "1x1", "rng": "1x1"}
    return tuple(
        word
        for name, shape in shapes.items()
        for word in (f"--{name}", shape if name == kind else "0")
    )


OPTIONS = (
    Option(_RUN, "--vm", _INPUTS, ("-q",)),
    Option(_RUN, "--disk", _INPUTS, SMALL),
    Option(_RUN, "--plugin", _INPUTS, SMALL),
    Option(_RUN, "--json", _OUTPUTS, SMALL),
    Option(_RUN, "--trace-file", _OUTPUTS, ("--trace-events", "*", *SMALL)),
    Option(_RUN, "--trace", _OUTPUTS, SMALL),
    Option(_RUN, "--images", _OUTPUTS, SMALL),
    Option(
        _INCOMING,
        "--tls-cert",
        _INPUTS,
        ("--tls-key", "{folder}/ca-own.key", "--tls-ca", "{folder}/ca.pem", *_NO_QUIET),
        words="waiting for a VM",
    ),
    Option(
        _INCOMING,
        "--tls-key",
        _some(_INPUTS),
        ("--tls-cert", "{folder}/ca-own.crt", "--tls-ca", "{folder}/ca.pem", *_NO_QUIET),
        words="waiting for a VM",
    ),
    Option(
        (*_INCOMING, *_TLS[:4]), "--tls-ca", _some(_INPUTS), _NO_QUIET, words="waiting for a VM"
    ),
    *(
        Option(("emu", "migrate", "--strategy", "split"), name, _refused(things), SMALL)
        for name, things in {
            "--vm": _INPUTS,
            "--disk": _INPUTS,
            "--plugin": _INPUTS,
            "--json": _OUTPUTS,
            "--report": _OUTPUTS,
            "--png": _some(_OUTPUTS),
            "--trace-file": _OUTPUTS,
            "--trace": _OUTPUTS,
            "--openmetrics": _OUTPUTS,
            "--images": _OUTPUTS,
        }.items()
    ),
    *(
        Option(("emu", "migrate", "--to", "tcp:127.0.0.1:1"), name, _refused(_INPUTS), SMALL)
        for name in ("--tls-cert", "--tls-key", "--tls-ca")
    ),
    *(
        Option(
            ("emu", "sweep", "--devices", "1", "--rings", "1", "--repeat", "1"),
            name,
            _refused(things),
            ("--vcpus", "1", "--memory", "64M", "--strategy", "split", "-q"),
        )
        for name, things in {
            "--results": _OUTPUTS,
            "--disk": _INPUTS,
            "--plugin": _INPUTS,
            "--json": _OUTPUTS,
            "--report": _some(_OUTPUTS),
            "--png": _some(_OUTPUTS),
            "--trace-file": _OUTPUTS,
            "--trace": _OUTPUTS,
            "--openmetrics": _OUTPUTS,
        }.items()
    ),
    *(
        Option(
            ("emu", "migrate", "--strategy", "split", f"--{other}-{kind}", "{folder}/other"),
            f"--{side}-{kind}",
            _refused(_OUTPUTS),
            (*_shape_of(kind), "--vcpus", "1", "--memory", "64M", "--accel", "soft"),
            words="waiting for a back-end",
        )
        for kind in ("net", "blk", "rng")
        for side, other in (("src", "dst"), ("dst", "src"))
    ),
    Option(_TAP, "--listen", _OUTPUTS, ("--connect", "{folder}/none", "-q")),
    Option(_TAP, "--connect", _OUTPUTS, ("--listen", "{folder}/here", "-q")),
    Option(_TAP, "--text", _OUTPUTS, _TAPPED),
    Option(_TAP, "--json", _some(_OUTPUTS), _TAPPED),
    Option(_TAP, "--pcap", _OUTPUTS, _TAPPED),
    Option(_TAP, "--trace-file", _some(_OUTPUTS), ("--trace-events", "*", *_TAPPED)),
    Option(("emu", "attach"), "--net", _OUTPUTS, ("--for", "0.1s"), words="waiting for a back-end"),
    Option(("emu", "attach"), "--blk", _some(_OUTPUTS), ("--for", "0.1s"), words="waiting for"),
    Option(("emu", "attach"), "--rng", _some(_OUTPUTS), ("--for", "0.1s"), words="waiting for"),
    Option(
        ("emu", "attach"), "--qmp", _OUTPUTS, ("--net", "{folder}/none"), words="waiting for a back"
    ),
    Option(
        ("emu", "attach"),
        "--trace-file",
        _some(_OUTPUTS),
        ("--trace-events", "*", "--net", "{folder}/none"),
        words="waiting for a back-end",
    ),
    Option(
        ("emu", "attach"),
        "--trace",
        _some(_OUTPUTS),
        ("--net", "{folder}/none"),
        words="waiting for a back-end",
    ),
    Option(("emu", "compare"), "--json", _some(_OUTPUTS), ("{folder}/a.json", "{folder}/a.json")),
    Option(("emu", "conform", "back-end"), "--socket", _OUTPUTS, ("--only", "VU-B-0101", "-q")),
    Option(("emu", "conform", "back-end", "--list"), "--json", _OUTPUTS),
    Option(
        ("emu", "conform", "back-end"),
        "--junitxml",
        _OUTPUTS,
        ("--exec", "true", "--only", "VU-B-0101", "-q"),
    ),
    *(
        Option(
            ("emu", "conform", role),
            name,
            _some(_OUTPUTS),
            ("--exec", "true", "--only", f"VU-{role[0].upper()}-0101", "-q"),
        )
        for role in ("back-end", "front-end")
        for name in ("--report", "--png", "--trace")
    ),
    *(
        Option(("emu", "report"), name, _some(_OUTPUTS), ("{folder}/a.json",))
        for name in ("--report", "--png")
    ),
    *(Option(_TAP, name, _some(_OUTPUTS), _TAPPED) for name in ("--report", "--png", "--trace")),
    Option(("emu", "conform", "back-end", "--list"), "--known", _INPUTS),
    Option(
        ("emu", "conform", "back-end"),
        "--openmetrics",
        _OUTPUTS,
        ("--exec", "true", "--only", "VU-B-0101", "-q"),
    ),
    Option(
        ("emu", "conform", "back-end"),
        "--write-known",
        _OUTPUTS,
        ("--exec", "true", "--only", "VU-B-0101", "-q"),
    ),
    Option(
        ("emu", "conform", "front-end"),
        "--socket",
        _OUTPUTS,
        ("--exec", "true", "--only", "VU-F-0101", "-q"),
    ),
    Option(
        ("emu", "conform", "peers", "--workers", "1", "--shards", "1"),
        "--out",
        _refused(_OUTPUTS),
        ("{folder}/peers.toml", "-q"),
    ),
    Option(("emu", "conform", "front-end", "--list"), "--json", _some(_OUTPUTS)),
    Option(("emu", "conform", "front-end", "--list"), "--known", _some(_INPUTS)),
    Option(
        ("emu", "conform", "front-end"),
        "--openmetrics",
        _some(_OUTPUTS),
        ("--exec", "true", "--only", "VU-F-0101", "-q"),
    ),
    Option(
        ("emu", "conform", "front-end"),
        "--write-known",
        _some(_OUTPUTS),
        ("--exec", "true", "--only", "VU-F-0101", "-q"),
    ),
    Option(
        ("emu", "conform", "front-end"),
        "--junitxml",
        _some(_OUTPUTS),
        ("--exec", "true", "--only", "VU-F-0101", "-q"),
    ),
    Option(("vhost-emu-blk",), "--blk-file", _INPUTS, _HERE, serves=True),
    Option(_BLK, "--socket-path", _OUTPUTS, serves=True),
    Option(_BLK, "--stats-file", _OUTPUTS, _HERE, serves=True),
    Option(_BLK, "--trace-file", _OUTPUTS, ("--trace-events", "*", *_HERE), serves=True),
    Option(_NET, "--uplink", _OUTPUTS, _SERVED, serves=True),
    Option(_NET, "--uplink-peer", _OUTPUTS, ("--uplink", "{folder}/up", *_SERVED), serves=True),
    Option(_NET, "--socket-path", _some(_OUTPUTS), ("--num-queues", "2"), serves=True),
    Option(_NET, "--stats-file", _some(_OUTPUTS), _SERVED, serves=True),
    Option(_NET, "--trace-file", _some(_OUTPUTS), ("--trace-events", "*", *_SERVED), serves=True),
    Option(_RNG, "--rng-source", _INPUTS, _HERE, serves=True),
    Option(_RNG, "--socket-path", _some(_OUTPUTS), serves=True),
    Option(_RNG, "--stats-file", _some(_OUTPUTS), _HERE, serves=True),
    Option(_RNG, "--trace-file", _some(_OUTPUTS), ("--trace-events", "*", *_HERE), serves=True),
    Option(("vhost-emu-serve",), "--plugin", _INPUTS, _HERE, serves=True),
    Option(_SERVE, "--socket-path", _some(_OUTPUTS), serves=True),
    Option(_SERVE, "--stats-file", _some(_OUTPUTS), _HERE, serves=True),
    Option(_SERVE, "--trace-file", _some(_OUTPUTS), ("--trace-events", "*", *_HERE), serves=True),
)


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    for option in OPTIONS:
        for name, thing in option.things.items():
            yield Cell("files", option.place, name, "command", partial(_tried, option, thing))
    yield from _descriptors()


_PLUGIN = """
from backends.rng_device import RandomSource, RngDevice
def make(name, loop, **options):
    return RngDevice(name, loop, RandomSource(None))
"""


_DOCUMENT = (
    '{"schema": 1, "summary": {}, "role": "back-end", "cases": [{"id": "VU-B-0001", "area": "a",'
    ' "rule": "r", "severity": "must", "verdict": "PASS"}]}'
)


_PEERS = """
[own]
exec = "{python} -m backends.rng --socket-path {{socket}}"
device = "rng"
only = ["VU-B-0101"]
"""


def _prepared(on: Commands, argv: Sequence[str]) -> list[str]:
    """The files that arguments name besides the one that is tried."""
    text = " ".join(argv)
    if "{folder}/ca" in text:
        Authority(on.folder).credentials("own")
    if "{folder}/disk" in text:
        (on.folder / "disk").write_bytes(bytes(1 << 20))
    if "{folder}/a.json" in text:
        (on.folder / "a.json").write_text(_DOCUMENT)
    if "{folder}/peers.toml" in text:
        (on.folder / "peers.toml").write_text(_PEERS.format(python=sys.executable))
    if "{folder}/plugin.py" in text:
        (on.folder / "plugin.py").write_text(_PLUGIN)
    return [word.replace("{folder}", str(on.folder)) for word in argv]


def _tried(option: Option, thing: Thing, on: Commands) -> None:
    before, after = _prepared(on, option.argv), _prepared(on, option.rest)
    path = thing.make(on)
    seen, asked = _look(path), _accepts(path)
    prefix = list(thing.before)
    if thing.before is _FULL:
        prefix.append(str(on.folder / "full"))
    argv = [*before, option.name, path, *after]
    if option.serves:
        ended = on.serve(argv, before=prefix)
    else:
        stop = printed(option.words) if option.words else None
        ended = on.command(argv, stop=stop, before=prefix)
    if asked and not _accepts(path):
        raise NotOk("the socket of another program does not accept any more")
    _check(option, thing, path, seen, ended)


#: Options that name a socket which need not be there yet, nor ever.
_LATER = ("--uplink-peer", "--connect")


def _check(option: Option, thing: Thing, path: str | bytes, seen: object, ended: Ended) -> None:
    if thing.fails and not ended.status and option.name not in _LATER:
        raise NotOk("it has succeeded")
    if option.things is _INPUTS and _look(path) != seen:
        raise NotOk("the file has changed")


def _look(path: str | bytes) -> tuple[int, ...] | None:
    with suppress(OSError, ValueError):
        status = os.lstat(path)
        if status.st_mode & 0o170000 != 0o020000:
            return status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns
    return None


def _accepts(path: str | bytes) -> bool:
    """Whether a program listens there."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(ANSWER)
        try:
            sock.connect(path)
        except (OSError, ValueError):
            return False
    return True


def _descriptors() -> Iterator[Cell]:
    """``--fd``, ``--ready-fd`` and ``--tap-fd``: numbers that are no such descriptor."""
    for number in (
        "-1",
        "0",
        "1",
        "2",
        "3",
        "99",
        "1023",
        "65536",
        "2147483647",
        "2147483648",
        "²",
        "",
        "x",
    ):
        for argv in (
            (*_RNG, "--fd", number),
            (*_RNG, *_HERE, "--ready-fd", number),
            (*_NET, *_SERVED, "--tap-fd", number),
        ):
            yield Cell(
                "files",
                f"{argv[0]} {argv[-2]}",
                number or "nothing",
                "command",
                partial(_numbered, argv),
            )


def _numbered(argv: tuple[str, ...], on: Commands) -> None:
    words = _prepared(on, argv)
    served = on.folder / "served"
    # 1 and 2 can be written to, so that they are a --ready-fd.
    ended = on.command(words, stop=lambda _: served.exists() and "--ready-fd" in words)
    if ended.status == 0 and "--ready-fd" not in words:
        raise NotOk("it has succeeded")
