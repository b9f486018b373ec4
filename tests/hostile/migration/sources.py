"""Sources that break the stream of a migration: each input is a recorded one with a mistake."""

from __future__ import annotations

import json
import random
import socket
import struct
import threading
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from emu.migration import clocks
from emu.migration.handshake import VERSION, required_match
from emu.migration.stream import RUNS_PER_SECTION, Kind
from tests.hostile import json_lies
from tests.hostile.cell import ANSWER, Cell, NotOk
from tests.hostile.migration.incoming import SILENCE, Incoming
from tests.hostile.migration.sections import ENTRY, Section
from tests.hostile.migration.vm import DEADLINE, SPEC

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Attack = Callable[[Incoming], None]
    _Inputs = Iterator[tuple[str, str, Attack]]

_FAILED = ("failed",)
#: Bytes of the largest payload of any section.
_MOST = 64 << 20
_GROUP = "migration sources"
_TLS_RECORD = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
#: A HELLO that the destination accepts.
HELLO: dict[str, Any] = {
    "version": VERSION,
    "spec": required_match(SPEC, "soft"),
    "features": {device.name: 0 for device in SPEC.devices},
    "disks": None,
    "strategy": "prewired",
    "options": {"threads": 8, "processes": 2, "unsafe": ""},
    "streams": 1,
    "session": "0" * 32,
    "clock": clocks.identity(),
    "report": True,
}
_COMPLETION: dict[str, Any] = {
    "strategy": "prewired",
    "downtime_ns": 1,
    "downtime_error_ns": 1,
    "precopy": {"bytes": 1, "rounds": 1},
    "served": 1,
}


class Place(NamedTuple):
    """A section of the recorded stream: the one with this number among those of its kind."""

    kind: Kind
    number: int = 0

    @property
    def name(self) -> str:
        """For the cells' names."""
        return {(Kind.RAM, 0): "first RAM", (Kind.RAM, -1): "last RAM"}.get(self, self.kind.name)

    def split(self) -> tuple[bytes, Section, bytes]:
        """The bytes before the section, itself, and the bytes after it."""
        recorded = Incoming.recorded
        at = [n for n, section in enumerate(recorded) if section.kind == self.kind][self.number]
        before, after = (
            b"".join(section.raw() for section in part)
            for part in (recorded[:at], recorded[at + 1 :])
        )
        return before, recorded[at], after


HELLO_PLACE = Place(Kind.HELLO)
PLACES = (
    HELLO_PLACE,
    Place(Kind.DEVICES),
    Place(Kind.RAM, 0),
    Place(Kind.RAM, -1),
    Place(Kind.SWITCHOVER),
    Place(Kind.GO),
    Place(Kind.COMPLETION),
)


def cells() -> Iterator[Cell]:
    """All cells of this group."""
    for place, name, attack in (
        *_whole(),
        *_cuts(),
        *_headers(),
        *_payloads(),
        *_orders(),
        *_documents(),
        *_device_states(),
        *_tables(),
        *_memory(),
        *_waits(),
        *_connections(),
        *_clocks(),
    ):
        yield Cell(_GROUP, place, name, "incoming", attack)


def _sent(
    make: Callable[[], bytes], on: Incoming, *, expected: tuple[str, ...] = (), close: bool = False
) -> None:
    on.listen()
    sock = on.play(make(), close=close)
    if not close:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
    on.outcome(*expected)


def _at(
    place: Place, make: Callable[[Section], bytes], *, expected: tuple[str, ...] = ()
) -> Attack:
    """The recorded stream with other bytes in place of a section."""

    def changed() -> bytes:
        before, section, after = place.split()
        return before + make(section) + after

    # Once GO has been read the VM runs here, whatever follows.
    late = {Kind.COMPLETION: ("completed",), Kind.GO: ()}
    return partial(_sent, changed, expected=late.get(place.kind, expected))


def _with_payload(make: Callable[[], bytes], section: Section) -> bytes:
    return section._replace(payload=make()).raw()


def _json(document: object) -> bytes:
    return json.dumps(document).encode()


def _instead(made: Section, _: Section) -> bytes:
    return made.raw()


def _miscounted(by: int, section: Section) -> bytes:
    return section.raw(count=section.entries + by, more=by * ENTRY)


def _whole() -> _Inputs:
    yield "stream", "without a mistake", partial(_sent, _stream, expected=("completed",))
    for name, make in json_lies.TEXTS.items():
        if name != "empty":  # a connection without a byte is a probe
            yield "stream", f"{name}, no stream", partial(_sent, make, expected=_FAILED)
    for name, data in {
        "a TLS record": _TLS_RECORD + bytes(512),
        "a TLS alert": b"\x15\x03\x03\x00\x02\x02\x28",
        "noise": random.Random(1).randbytes(1 << 20),
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "QEMU": struct.pack(">II", 0x5145564D, 3) + bytes(4096),
        "the destination's own sections": b"".join(
            Section(kind, 0, b"").raw() for kind in Kind if kind >= Kind.PREPARED
        ),
    }.items():
        yield "stream", name, partial(_sent, partial(bytes, data), expected=_FAILED)


def _stream() -> bytes:
    return b"".join(section.raw() for section in Incoming.recorded)


def _cuts() -> _Inputs:
    def cut(place: Place, at: Callable[[int], int]) -> bytes:
        before, section, _ = place.split()
        raw = section.raw()
        return before + raw[: at(len(raw))]

    for place in PLACES:
        for name, at in {
            "before it": lambda _: 0,
            "after a byte": lambda _: 1,
            "in its header": lambda _: 15,
            "after its header": lambda size: min(16, size),
            "in the middle": lambda size: size // 2,
            "before its last byte": lambda size: size - 1,
            "after it": lambda size: size,
        }.items():
            if place == HELLO_PLACE and name == "before it":
                continue  # a connection without a byte is a probe
            late = place.kind is Kind.COMPLETION or (place.kind is Kind.GO and name == "after it")
            expected = (
                ("completed",)
                if late or (place.kind is Kind.GO and name == "after its header")
                else _FAILED
            )
            make = partial(cut, place, at)
            for how, close in (("half closed", False), ("closed", True)):
                # A closed connection: READY cannot be sent, so that GO is not read any more.
                yield (
                    place.name,
                    f"{how} {name}",
                    partial(_sent, make, expected=() if close else expected, close=close),
                )


def _headers() -> _Inputs:
    for place in PLACES:
        for kind in (0, *Kind, 255, 1 << 16, (1 << 32) - 1):
            if kind != place.kind:
                yield (
                    place.name,
                    f"kind {kind if kind not in list(Kind) else Kind(kind).name}",
                    _at(place, partial(Section.raw, kind=kind), expected=_FAILED),
                )
        for count in (0, 1, 255, RUNS_PER_SECTION + 1, (1 << 31), (1 << 32) - 1):
            expected = _FAILED if place.kind is Kind.RAM else ()
            yield (
                place.name,
                f"count {count}",
                _at(place, partial(Section.raw, count=count), expected=expected),
            )
        for more in (-1, 1, 16, 1 << 20, _MOST, 1 << 31, 1 << 32, 1 << 62, 1 << 63, -1 << 63):
            yield (
                place.name,
                f"length {more:+#x}",
                _at(place, partial(Section.raw, more=more), expected=_FAILED),
            )


def _payloads() -> _Inputs:
    def fill(byte: bytes, section: Section) -> bytes:
        return section._replace(payload=byte * len(section.payload)).raw()

    def noise(section: Section) -> bytes:
        return section._replace(payload=random.Random(2).randbytes(len(section.payload))).raw()

    def flip(place: float, section: Section) -> bytes:
        payload = bytearray(section.payload)
        payload[int(place * (len(payload) - 1))] ^= 0x80
        return section._replace(payload=bytes(payload)).raw()

    for place in PLACES:
        if place.kind is Kind.GO:
            yield place.name, "64 MiB", _at(place, lambda s: s._replace(payload=bytes(_MOST)).raw())
            continue
        changes: dict[str, Callable[[Section], bytes]] = {
            "zeroes": partial(fill, b"\0"),
            "ones": partial(fill, b"\xff"),
            "noise": noise,
            "empty": lambda s: s._replace(payload=b"", memory=b"").raw(),
            "one byte less": lambda s: s._replace(payload=s.payload[:-1]).raw(),
            "one byte more": lambda s: s._replace(payload=s.payload + b"\0").raw(),
            "twice the payload": lambda s: s._replace(payload=s.payload * 2).raw(),
            "64 MiB": lambda s: s._replace(payload=s.payload + bytes(_MOST - len(s.payload))).raw(),
            **{f"a bit flipped at {n}/16": partial(flip, n / 16) for n in range(17)},
        }
        for name, make in changes.items():
            yield place.name, name, _at(place, make)


def _orders() -> _Inputs:
    for place in PLACES:
        early = place.kind not in {Kind.RAM, Kind.COMPLETION}
        yield place.name, "left out", _at(place, lambda _: b"", expected=_FAILED if early else ())
        harmless = place.kind in {Kind.RAM, Kind.GO}
        for name, times in (("twice", 2), ("1000 times", 1000)):
            make = partial(_repeated, times)
            yield place.name, name, _at(place, make, expected=() if harmless else _FAILED)
    for first in PLACES:
        for second in PLACES:
            if first != second:
                make = partial(_swapped, first, second)
                yield (
                    first.name,
                    f"in place of {second.name}, and the other way round",
                    partial(_sent, make),
                )


def _repeated(times: int, section: Section) -> bytes:
    return section.raw() * times


def _swapped(first: Place, second: Place) -> bytes:
    sections = list(Incoming.recorded)
    one, two = (sections.index(place.split()[1]) for place in (first, second))
    sections[one], sections[two] = sections[two], sections[one]
    return b"".join(section.raw() for section in sections)


def _documents() -> _Inputs:
    for place, document in ((HELLO_PLACE, HELLO), (Place(Kind.COMPLETION), _COMPLETION)):
        for name, make in json_lies.TEXTS.items():
            yield (
                place.name,
                f"JSON, {name}",
                _at(place, partial(_with_payload, make), expected=_FAILED),
            )
        for member, name, changed in json_lies.changed(document):
            make = partial(_json, changed)
            yield f"{place.name}, {member}", name, _at(place, partial(_with_payload, make))
    yield from _options()
    yield from _disks()


def _options() -> _Inputs:
    """The sizes of pools, which the source's strategy names."""
    for strategy, option in (("threads", "threads"), ("processes", "processes")):
        for size in (-(1 << 63), -1, 0, 10_000, 1 << 31, (1 << 63) - 1, (1 << 64) - 1):
            hello = {**HELLO, "strategy": strategy, "options": {option: size}}
            make = partial(_with_hello, hello)
            yield "HELLO, options", f"{option} {size}", partial(_sent, make, expected=_FAILED)
    for unsafe in ("", "x", "double-disable", "deadlock"):
        hello = {**HELLO, "strategy": "threads", "options": {"unsafe": unsafe}}
        yield "HELLO, options", f"unsafe {unsafe!r}", partial(_sent, partial(_with_hello, hello))
    for name in (
        "handover",
        "qemu-2021",
        "processes",
        "split",
        "x" * (1 << 20),
        "\ufffd",
        "__init__",
    ):
        make = partial(_with_hello, {**HELLO, "strategy": name})
        text = name if len(name) < 40 else f"a name of {len(name)} characters"
        yield "HELLO, strategy", text, partial(_sent, make)


def _with_hello(hello: dict[str, Any]) -> bytes:
    _, section, after = HELLO_PLACE.split()
    return section._replace(payload=json.dumps(hello).encode()).raw() + after


def _disks() -> _Inputs:
    """A destination with a directory of images and a disk of the user."""

    def sent(disks: object, on: Incoming) -> None:
        on.disks = {"images": str(on.folder), "disk": {"size": 512, "sha256": "0" * 64}}
        _sent(partial(_with_hello, {**HELLO, "disks": disks}), on, expected=_FAILED)

    for value in json_lies.VALUES:
        text = json.dumps(value)
        name = text if len(text) < 40 else f"{len(text)} characters"
        yield "HELLO, of a destination with disks", name, partial(sent, value)
        for member in ("mark", "disk"):
            yield (
                f"HELLO, of a destination with disks.{member}",
                name,
                partial(sent, {"mark": None, "disk": None, member: value}),
            )
        for member in ("size", "sha256"):
            disk = {"size": 512, "sha256": "0" * 64, member: value}
            yield (
                f"HELLO, of a destination with disks.disk.{member}",
                name,
                partial(sent, {"mark": "0" * 32, "disk": disk}),
            )


#: Offset and size of the fields of a device's state: of net0 with its first ring, and of blk0.
_DEVICE_FIELDS = {
    "net0, name": (0, 16),
    "net0, features": (16, 8),
    "net0, rings": (24, 4),
    "net0, ring 0, index": (28, 4),
    "net0, ring 0, size": (32, 4),
    "net0, ring 0, base": (36, 4),
    "net0, ring 0, descriptors": (40, 8),
    "net0, ring 0, available": (48, 8),
    "net0, ring 0, used": (56, 8),
    "blk0, name": (100, 16),
    "blk0, features": (116, 8),
    "blk0, rings": (124, 4),
    "blk0, ring 0, index": (128, 4),
    "blk0, ring 0, size": (132, 4),
    "blk0, ring 0, base": (136, 4),
    "blk0, ring 0, descriptors": (140, 8),
    "blk0, ring 0, available": (148, 8),
    "blk0, ring 0, used": (156, 8),
}
#: Of SWITCHOVER: lengths, the bases of three rings, and two vCPUs.
_SWITCHOVER_FIELDS = {
    "bases": (0, 4),
    "devices": (4, 4),
    "vCPUs": (8, 4),
    "net0, ring 0, base": (12, 2),
    "blk0, ring 0, base": (16, 2),
    "vCPU 0, flags": (18, 2),
    "vCPU 0, pending": (20, 2),
    "vCPU 0, timer": (22, 4),
    "vCPU 1, pending": (28, 2),
}
_LENGTHS = struct.Struct("<III")
_NUMBERS = (0, 1, 3, 127, 1 << 15, 1 << 16, SPEC.memory_bytes, (1 << 63) + 2, -16, -1)


def _device_states() -> _Inputs:
    for kind, fields in ((Kind.DEVICES, _DEVICE_FIELDS), (Kind.SWITCHOVER, _SWITCHOVER_FIELDS)):
        for field, (at, size) in fields.items():
            for number in dict.fromkeys(n & (1 << 8 * size) - 1 for n in _NUMBERS):
                data = number.to_bytes(size, "little")
                yield (
                    f"{kind.name}, {field}",
                    f"{number:#x}",
                    _at(Place(kind), partial(_patched, at, data)),
                )
    for field in _DEVICE_FIELDS:
        for number in _NUMBERS:
            yield (
                f"SWITCHOVER with devices, {field}",
                f"{number:#x}",
                _at(Place(Kind.SWITCHOVER), partial(_with_devices, {field: number})),
            )
    both = partial(_patched_both, {"net0, ring 0, size": 3})
    yield "DEVICES and SWITCHOVER", "the same ring size of 3", partial(_sent, both)
    for field in ("size", "base", "descriptors", "available", "used"):
        for number in _NUMBERS:
            for device in ("net0", "blk0"):
                name = f"{device}, ring 0, {field}"
                make = partial(_patched_both, {name: number})
                yield f"DEVICES and SWITCHOVER, {name}", f"{number:#x}", partial(_sent, make)


def _patched(at: int, data: bytes, section: Section) -> bytes:
    payload = section.payload[:at] + data + section.payload[at + len(data) :]
    return section._replace(payload=payload).raw()


def _devices(fields: dict[str, int]) -> bytes:
    """The payload of DEVICES, with these values."""
    _, section, _ = Place(Kind.DEVICES).split()
    payload = bytearray(section.payload)
    for name, number in fields.items():
        at, size = _DEVICE_FIELDS[name]
        payload[at : at + size] = (number & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(payload)


def _with_devices(fields: dict[str, int], section: Section) -> bytes:
    """SWITCHOVER of a VM whose driver has set up a device since DEVICES."""
    bases, _, vcpus = _LENGTHS.unpack_from(section.payload)
    devices = _devices(fields)
    rest = section.payload[_LENGTHS.size + bases :]
    payload = _LENGTHS.pack(0, len(devices), vcpus) + devices + rest
    return section._replace(payload=payload).raw()


def _patched_both(fields: dict[str, int]) -> bytes:
    """The same lie before the blackout and in it."""
    parts = []
    for section in Incoming.recorded:
        if section.kind == Kind.DEVICES:
            parts.append(section._replace(payload=_devices(fields)).raw())
        elif section.kind == Kind.SWITCHOVER:
            parts.append(_with_devices(fields, section))
        else:
            parts.append(section.raw())
    return b"".join(parts)


def _tables() -> _Inputs:
    """RAM sections whose entries lie."""
    place = Place(Kind.RAM, 0)
    end = SPEC.memory_bytes
    for name, entries in {
        "no entry": [],
        "an entry of 0 bytes": [(0, 0)],
        "1000 entries of 0 bytes": [(0, 0)] * RUNS_PER_SECTION,
        "1001 entries": [(0, 0)] * (RUNS_PER_SECTION + 1),
        "behind the end": [(end, 4096)],
        "across the end": [(end - 4096, 8192)],
        "one byte across the end": [(end - 4096, 4097)],
        "in the hole": [(3 << 30, 4096)],
        "at 2^63": [(1 << 63, 4096)],
        "at 2^64-4096": [((1 << 64) - 4096, 4096)],
        "wraps": [((1 << 64) - 4096, 8192)],
        "2^63 bytes": [(0, 1 << 63)],
        "2^64-1 bytes": [(0, (1 << 64) - 1)],
        "all memory, cut": [(0, end)],
        "not aligned": [(1, 3)],
        "the same page twice": [(4096, 4096)] * 2,
    }.items():
        table = b"".join(struct.pack("<QQ", *entry) for entry in entries)
        made = Section(Kind.RAM, len(entries), table)
        yield place.name, name, _at(place, partial(_instead, made))
    for count in range(-3, 4):
        yield (
            place.name,
            f"{count:+} entries in the header",
            _at(
                place,
                partial(_miscounted, count),
                expected=_FAILED if count else ("completed",),
            ),
        )


def _memory() -> _Inputs:
    """Memory that the guest has not had: its drivers and the back-ends read it when it runs on."""

    def made(change: Callable[[bytes], bytes]) -> bytes:
        return b"".join(s._replace(memory=change(s.memory)).raw() for s in Incoming.recorded)

    def noise(seed: int, data: bytes) -> bytes:
        return random.Random(seed).randbytes(len(data))

    def flips(seed: int, data: bytes) -> bytes:
        changed = bytearray(data)
        rng = random.Random(seed)
        for _ in range(len(data) // 512):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    changes: dict[str, Callable[[bytes], bytes]] = {
        "zeroes": lambda data: bytes(len(data)),
        "ones": lambda data: b"\xff" * len(data),
        "0x01": lambda data: b"\x01" * len(data),
        "pages in reverse": lambda data: b"".join(
            reversed([data[n : n + 4096] for n in range(0, len(data), 4096)])
        ),
        **{f"noise {seed}": partial(noise, seed) for seed in range(4)},
        **{f"flipped bits {seed}": partial(flips, seed) for seed in range(16)},
    }
    for name, change in changes.items():
        yield "memory", name, partial(_ran_on, partial(made, change))


def _ran_on(make: Callable[[], bytes], on: Incoming) -> None:
    """The guest runs on with it for a moment."""
    _sent(make, on, expected=("completed",))
    on.await_guest()


def _waits() -> _Inputs:
    def stalled(place: Place, share: float, on: Incoming) -> None:
        before, section, _ = place.split()
        raw = section.raw()
        on.listen()
        on.play(before + raw[: int(len(raw) * share)], close=False)
        on.outcome(timeout=SILENCE)

    def cancelled(place: Place, end: Callable[[Incoming], None], on: Incoming) -> None:
        on.listen()
        on.play(place.split()[0], close=False)
        end(on)

    for place in PLACES:
        yield place.name, "stalls before it", partial(stalled, place, 0.0)
        yield place.name, "stalls in it", partial(stalled, place, 0.5)
        yield place.name, "the VM is released before it", partial(cancelled, place, _released)
    yield "stream", "nothing, released", partial(cancelled, HELLO_PLACE, _released)
    yield "stream", "a byte now and then, released", _drips
    yield "stream", "memory without an end, released", _endless
    yield "stream", "sends and reads nothing", _reads_nothing


def _released(on: Incoming) -> None:
    """Ends at once, whatever the source does."""
    on.uri = ""
    start = time.monotonic()
    on.release()
    if time.monotonic() - start > ANSWER:
        raise NotOk("the VM is not released in time")


def _drips(on: Incoming) -> None:
    on.listen()
    sock = on.play(close=False)
    for byte in _stream()[:8]:
        sock.sendall(bytes([byte]))
        time.sleep(DEADLINE / 8)
    _released(on)


def _endless(on: Incoming) -> None:
    on.listen()
    sock = on.play(close=False)
    before, section, _ = Place(Kind.RAM).split()
    ended = threading.Event()

    def send() -> None:
        with suppress(OSError):
            sock.sendall(before)
            while not ended.is_set():
                sock.sendall(section.raw())

    sender = threading.Thread(target=send)
    sender.start()
    try:
        time.sleep(DEADLINE / 4)
        _released(on)
    finally:
        ended.set()
        sender.join()


def _reads_nothing(on: Incoming) -> None:
    """PINGs are answered, and the answers are not read."""
    on.listen()
    ping = Section(Kind.PING, 0, b"").raw()
    sock = on.play(_with_hello({**HELLO, "clock": "another"}), close=False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    with suppress(OSError):
        sock.sendall(ping * 10_000)
    on.outcome(*_FAILED, timeout=SILENCE)


def _connections() -> _Inputs:
    yield "connections", "100 that are closed at once", _probes
    yield "connections", "100 at once", _many
    yield "connections", "a second source meanwhile", _second
    for streams in (0, -1, 2, 16, 17, 1 << 31):
        make = partial(_with_hello, {**HELLO, "streams": streams})
        yield "streams", f"{streams}, no other connection", partial(_sent, make, expected=_FAILED)
    for name, first in {
        "no JOIN": b"",
        "another session": Section(Kind.JOIN, 0, b"1" * 32).raw(),
        "a session of 64 KiB": Section(Kind.JOIN, 0, bytes(1 << 16)).raw(),
        "HELLO": Section(Kind.HELLO, 0, json.dumps(HELLO).encode()).raw(),
        "half a JOIN": Section(Kind.JOIN, 0, b"0" * 32).raw()[:20],
        "text": b"GET / HTTP/1.1\r\n\r\n",
    }.items():
        yield "second stream", name, partial(_joined, first, expected=_FAILED)
    join = Section(Kind.JOIN, 0, b"0" * 32).raw()
    for name, then in {
        "closed": b"",
        "a barrier too many": Section(Kind.BARRIER, 0, b"").raw() * 2,
        "GO": Section(Kind.GO, 0, b"").raw(),
        "half a section": Section(Kind.RAM, 1, bytes(ENTRY)).raw()[:20],
        "memory that is not there": Section(Kind.RAM, 1, struct.pack("<QQ", 1 << 40, 4096)).raw(),
        "noise": random.Random(3).randbytes(1 << 16),
        "text": b"GET / HTTP/1.1\r\n\r\n",
    }.items():
        yield "second stream", f"JOIN, then {name}", partial(_joined, join + then)
    barrier = Section(Kind.BARRIER, 0, b"").raw()
    yield "streams", "a barrier on the first only", partial(_barrier, barrier)
    yield (
        "streams",
        "a barrier with one stream",
        _at(Place(Kind.SWITCHOVER), lambda s: barrier + s.raw()),
    )


def _probes(on: Incoming) -> None:
    on.listen()
    for _ in range(100):
        on.connect().close()
    on.play(_stream(), close=False)
    on.outcome("completed")


def _many(on: Incoming) -> None:
    on.listen()
    for _ in range(100):
        with suppress(OSError):
            sock = socket.socket(socket.AF_UNIX)
            on.owned.callback(sock.close)
            sock.setblocking(False)
            sock.connect(on.uri.partition(":")[2])
    on.outcome(*_FAILED, timeout=SILENCE)


def _second(on: Incoming) -> None:
    """It is not served; the first one's migration succeeds."""
    on.listen()
    first = on.play(HELLO_PLACE.split()[1].raw(), close=False)
    other = on.play(_stream(), close=False)
    first.sendall(HELLO_PLACE.split()[2])
    on.outcome("completed")
    other.close()


def _joined(second: bytes, on: Incoming, *, expected: tuple[str, ...] = ()) -> None:
    on.listen()
    first = on.play(_with_hello({**HELLO, "streams": 2}), close=False)
    other = on.play(second, close=False)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)
    with suppress(OSError):
        first.shutdown(socket.SHUT_WR)
    on.outcome(*expected, timeout=SILENCE)


def _barrier(barrier: bytes, on: Incoming) -> None:
    on.listen()
    before, _, after = Place(Kind.SWITCHOVER).split()
    hello = json.dumps({**HELLO, "streams": 2}).encode()
    rest = before[len(HELLO_PLACE.split()[1].raw()) :]
    on.play(Section(Kind.HELLO, 0, hello).raw(), rest, barrier, after, close=False)
    on.play(Section(Kind.JOIN, 0, b"0" * 32).raw(), close=False)
    on.outcome(*_FAILED, timeout=SILENCE)


def _clocks() -> _Inputs:
    """The source's clock is another one: the destination answers PINGs, and reads the offset."""
    ping = Section(Kind.PING, 0, b"").raw()
    hello = {**HELLO, "clock": "another"}

    def made(pings: int, offset: bytes) -> bytes:
        _, section, after = HELLO_PLACE.split()
        first = section._replace(payload=json.dumps(hello).encode()).raw()
        return first + ping * pings + offset + after

    def time_of(ns: int) -> bytes:
        return Section(Kind.PING, 0, struct.pack("<Q", ns & (1 << 64) - 1)).raw()

    for pings in (0, 1, clocks.PROBES - 1, clocks.PROBES + 1, 10 * clocks.PROBES):
        make = partial(made, pings, time_of(0))
        yield "clocks", f"{pings} PINGs", partial(_sent, make, expected=_FAILED)
    for ns in (1, -1, 1 << 40, -(1 << 40), 1 << 59, -(1 << 59), 1 << 62, 1 << 63, -(1 << 62)):
        yield (
            "clocks",
            f"an offset of {ns:#x}",
            partial(_sent, partial(made, clocks.PROBES, time_of(ns))),
        )
    for name, payload in {
        "empty": b"",
        "of 7 bytes": bytes(7),
        "of 64 KiB": bytes(1 << 16),
    }.items():
        offset = Section(Kind.PING, 0, payload).raw()
        make = partial(made, clocks.PROBES, offset)
        yield "clocks", f"an offset that is {name}", partial(_sent, make, expected=_FAILED)
