"""Bytes and descriptors in, messages out, and back. No I/O.

A message is a header of three 32-bit words in host byte order (id, flags, bytes of payload) and
its payload. Descriptors are sent by the system call that sends the first byte of the header (spec,
commit 97f24a0496). The kernel ends a read of a unix stream after a write that had descriptors, but
puts earlier writes without any into the same read. So the descriptors of a read belong to one
message that *begins* in that read: to the first one that has to carry some, by its row of the table
and its payload.
"""

from __future__ import annotations

import os
import re
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, NoReturn, cast

from vhost_user.errors import ProtocolError
from vhost_user.message_spec import FdRule, MessageSpec
from vhost_user.payload_layout import SHAPES, Payload, PayloadError
from vhost_user.payloads import U64, VRING_NO_FD, MemTable, VringAddr, VringState

HEADER = struct.Struct("=III")
VERSION = 1
REPLY = 1 << 2
NEED_REPLY = 1 << 3

#: Flags that a request may have, and those that a reply has. Peers reject any other.
REQUEST_FLAGS = frozenset({VERSION, VERSION | NEED_REPLY})
REPLY_FLAGS = frozenset({VERSION | REPLY})

#: Payloads of the messages that come in runs: one for each ring of a device.
RUN_PAYLOADS: tuple[type[Payload], ...] = (VringState, VringAddr)
#: Messages of one run at most: what handles a run at once does not take long.
MAX_RUN = 64

#: Payload types that one `struct` call packs together with the header: (packer, payload bytes).
FLAT: dict[type[object], tuple[Callable[..., bytes], int]] = {
    kind: (struct.Struct("=III" + shape.layout.format.lstrip("=")).pack, shape.largest)
    for kind, shape in SHAPES.items()
    if shape.layout is not None and shape.plain
}


def encode(request_id: int, flags: int, payload: Payload | None) -> bytes:
    """A whole message.

    Raises:
        PayloadError: a field is out of range, or there are too many regions.
    """
    try:
        if payload is None:
            return HEADER.pack(request_id, flags, 0)
        flat = FLAT.get(payload.__class__)
        if flat is not None:
            return flat[0](request_id, flags, flat[1], *payload)
        body = payload.pack()
    except struct.error as error:
        raise PayloadError(f"{payload!r} does not fit: {error}") from None
    return HEADER.pack(request_id, flags, len(body)) + body


class Frame(NamedTuple):
    """A message as received: id, flags, payload, descriptors (the receiver's to close)."""

    id: int
    flags: int
    payload: Payload | None
    fds: tuple[int, ...]


class FrameRun(NamedTuple):
    """Two to `MAX_RUN` messages in a row with the same header, and without descriptors.

    Attributes:
        id, flags: of each message.
        kind: class of the payloads, one of `RUN_PAYLOADS`.
        payloads: the fields of each payload, as plain tuples.
    """

    id: int
    flags: int
    kind: type[Payload]
    payloads: list[tuple[int, ...]]

    def frames(self) -> list[Frame]:
        """The messages, one by one."""
        number, flags, kind, payloads = self
        make = maker(kind)
        return [Frame(number, flags, make(fields), ()) for fields in payloads]


def maker(kind: type[Payload]) -> Callable[[tuple[int, ...]], Payload]:
    """The function that makes a payload of a class with fields only, from as many values."""
    # tuple.__new__ instead of _make, which counts them
    return partial(tuple.__new__, cast("Any", kind))


@cache
def _run_at(header: bytes) -> Callable[[bytes, int], re.Match[bytes] | None]:
    """The function that finds the run of messages with this header at an offset.

    There are few headers: the decoder has checked id, flags and size.
    """
    size = HEADER.unpack(header)[2]
    pattern = b"(?:%b.{%d}){2,%d}" % (re.escape(header), size, MAX_RUN)
    return re.compile(pattern, re.DOTALL).match


_Decode = Callable[[bytes, int], Payload]


def _decoder(kind: type[Payload], size: int) -> _Decode:
    """The function that decodes a payload of ``size`` bytes at an offset."""
    layout = SHAPES[kind].layout
    if layout is None or not SHAPES[kind].plain:
        unpack = kind.unpack
        return lambda data, at: unpack(data[at : at + size])
    make, unpack_from = maker(kind), layout.unpack_from
    return lambda data, at: make(unpack_from(data, at))


class Form:
    """What a received message of one id may look like.

    Attributes:
        name: wire name.
        fds: how many descriptors it carries.
        largest: bytes of payload at most.
        run: class of the payloads in a run (`FrameRun`), or None.
        run_size: bytes of each of them, or 0.
    """

    __slots__ = (
        *("_by_size", "_run_layout", "_variable"),
        *("fds", "largest", "name", "run", "run_size"),
    )

    def __init__(
        self, name: str, kinds: Iterable[type[Payload] | None], fds: FdRule = FdRule.NONE
    ) -> None:
        self.name = name
        self.fds = fds
        self._by_size: dict[int, _Decode | None] = {}
        self._variable: type[Payload] | None = None
        kinds = tuple(kinds) or (None,)
        for kind in kinds:
            self._add(kind)
        self.largest = max(SHAPES[kind].largest if kind else 0 for kind in kinds)
        # The first kind of a size is the one that is decoded.
        in_runs = fds is FdRule.NONE and kinds[0] in RUN_PAYLOADS
        self.run = kinds[0] if in_runs else None
        self.run_size = self.largest if in_runs else 0
        layout = SHAPES[self.run].layout if self.run else None
        self._run_layout = struct.Struct("=12x" + layout.format.lstrip("=")) if layout else HEADER

    def _add(self, kind: type[Payload] | None) -> None:
        if kind is None:
            self._by_size[0] = None
        elif SHAPES[kind].smallest == SHAPES[kind].largest:
            self._by_size.setdefault(SHAPES[kind].largest, _decoder(kind, SHAPES[kind].largest))
        else:
            self._variable = kind

    def decode(self, data: bytes, at: int, size: int) -> Payload | None:
        """The payload of ``size`` bytes at ``at``.

        Raises:
            PayloadError: the message cannot have a payload of that size, or with these contents.
        """
        try:
            decode = self._by_size[size]
        except KeyError:
            if self._variable is None:
                raise PayloadError(f"has no payload of {size} bytes") from None
            return self._variable.unpack(data[at : at + size])
        return None if decode is None else decode(data, at)

    def decode_run(self, data: bytes) -> list[tuple[int, ...]]:
        """The fields of the payloads of a run: whole messages, and nothing else."""
        return list(self._run_layout.iter_unpack(data))


def request_forms(table: Mapping[int, MessageSpec]) -> dict[int, Form]:
    """The form of each request of a table."""
    return {number: Form(row.name, row.payload, row.fds) for number, row in table.items()}


def reply_forms(table: Mapping[int, MessageSpec]) -> dict[int, Form]:
    """The form of the answers to each request of a table: its own reply or an acknowledgement."""
    return {
        number: Form(
            row.name,
            row.reply_payload if U64 in row.reply_payload else (*row.reply_payload, U64),
            row.reply_fds,
        )
        for number, row in table.items()
    }


def fd_range(rule: FdRule, payload: Payload | None) -> tuple[int, int]:
    """The least and the most descriptors that a message carries."""
    if rule is FdRule.NONE:
        return 0, 0
    if rule is FdRule.OPTIONAL:
        return 0, 1
    if rule is FdRule.PER_REGION:
        regions = len(payload.regions) if isinstance(payload, MemTable) else 1
        return (0, 0) if isinstance(payload, U64) else (regions, regions)
    if rule is FdRule.UNLESS_NO_FD and isinstance(payload, U64) and payload.value & VRING_NO_FD:
        return 0, 0
    return 1, 1


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that no message is returned with."""
    for fd in fds:
        os.close(fd)


class _Batch(NamedTuple):
    """Descriptors that came with the bytes from ``start`` up to ``stop`` of the stream."""

    start: int
    stop: int
    fds: tuple[int, ...]


class Decoder:
    """Turns what was read into whole messages, checked against their rows of the table.

    It owns the descriptors of its input until it returns them with a frame. On an error it
    closes all of them, including those of the frames of the same call.

    Args:
        forms: what each id may look like.
        flags: the flags that a message may have.
        fault: the error to raise, by the peer that sends.
        device: name of the device, for errors.
        discard: closes descriptors.
    """

    def __init__(
        self,
        forms: Mapping[int, Form],
        flags: frozenset[int],
        fault: type[ProtocolError],
        device: str,
        discard: Callable[[Iterable[int]], None] = close_all,
    ) -> None:
        self._forms = forms
        self._flags = flags
        self._fault = fault
        self._device = device
        self._discard = discard
        self._rest = b""
        self._base = 0  # offset of the first byte of _rest in the stream
        self._batches: deque[_Batch] = deque()
        self._optional: int | None = None  # index of a frame of this call that may have descriptors
        self._broken = False

    @property
    def partial(self) -> bool:
        """The stream is in the middle of a message."""
        return bool(self._rest)

    def feed(self, data: bytes, fds: Sequence[int] = ()) -> list[Frame]:
        """All messages that are complete now.

        Raises:
            ProtocolError: (as ``fault``) the bytes are not a message. The stream is unusable then.
        """
        return cast("list[Frame]", self._feed(data, fds, runs=False))

    def feed_runs(self, data: bytes, fds: Sequence[int] = ()) -> list[Frame | FrameRun]:
        """As `feed`, with runs of the same message as one item."""
        return self._feed(data, fds, runs=True)

    def _feed(self, data: bytes, fds: Sequence[int], *, runs: bool) -> list[Frame | FrameRun]:
        if fds:
            start = self._base + len(self._rest)
            self._batches.append(_Batch(start, start + len(data), tuple(fds)))
        frames: list[Frame | FrameRun] = []
        try:
            if self._broken:
                self._fail("sent more after it broke the protocol")
            self._parse(self._rest + data if self._rest else data, frames, runs=runs)
        except ProtocolError:
            self.abandon()
            for frame in frames:
                if isinstance(frame, Frame):
                    self._discard(frame.fds)
            raise
        return frames

    def abandon(self) -> None:
        """Close descriptors that wait for their message; reject everything from now on."""
        self._broken = True
        while self._batches:
            self._discard(self._batches.popleft().fds)

    def _parse(self, data: bytes, frames: list[Frame | FrameRun], *, runs: bool) -> None:
        forms, allowed, unpack_header = self._forms, self._flags, HEADER.unpack_from
        make: Callable[[type[Frame], tuple[object, ...]], Frame] = tuple.__new__
        at, end = 0, len(data)
        while end - at >= 12:
            number, flags, size = unpack_header(data, at)
            form = forms.get(number)
            if form is None or flags not in allowed or size > form.largest:
                self._refuse_header(number, flags, size)
            body = at + 12
            if body + size > end:
                break
            if runs and form.run is not None and size == form.run_size:
                header = data[at:body]
                # Without descriptors in the form there are none to claim.
                if data.startswith(header, body + size) and (run := _run_at(header)(data, at)):
                    payloads = form.decode_run(run[0])
                    frames.append(FrameRun(number, flags, form.run, payloads))
                    at = run.end()
                    continue
            try:
                payload = form.decode(data, body, size)
            except PayloadError as error:
                self._fail(str(error), form.name)
            fds: tuple[int, ...] = ()
            if self._batches or form.fds is not FdRule.NONE:
                fds = self._claim(form, payload, self._base + at, len(frames))
            frames.append(make(Frame, (number, flags, payload, fds)))
            at = body + size
        self._rest = data[at:]
        self._base += at
        if self._batches:
            self._settle(frames)
        self._optional = None

    def _claim(
        self, form: Form, payload: Payload | None, start: int, position: int
    ) -> tuple[int, ...]:
        """The descriptors of the message that begins at ``start`` of the stream."""
        least, most = fd_range(form.fds, payload)
        batch = self._batches[0] if self._batches else None
        came = batch is not None and batch.start <= start < batch.stop
        if most and not least:
            self._optional = position if came else None
            return ()
        if not most:
            return ()
        if batch is None or not came:
            self._fail(f"came without its {_count(least)}", form.name)
        if len(batch.fds) != least:
            self._fail(f"came with {_count(len(batch.fds))}, not {least}", form.name)
        return self._batches.popleft().fds

    def _settle(self, frames: list[Frame | FrameRun]) -> None:
        """Assign descriptors that no message claimed to the one that may have some; else fail."""
        while self._batches:
            batch = self._batches[0]
            if batch.stop > self._base and (self._optional is None or self._may_claim_later()):
                return
            if self._optional is None or len(batch.fds) != 1:
                last = self._forms[frames[-1].id].name if frames else None
                self._fail(f"{_count(len(batch.fds))} without a message", last)
            claimant = cast("Frame", frames[self._optional])
            frames[self._optional] = claimant._replace(fds=batch.fds)
            self._optional = None
            self._batches.popleft()

    def _may_claim_later(self) -> bool:
        """Whether the incomplete message, as far as it has arrived, carries descriptors."""
        if len(self._rest) < HEADER.size:
            return False
        form = self._forms.get(HEADER.unpack_from(self._rest)[0])
        return form is not None and form.fds is not FdRule.NONE

    def _refuse_header(self, number: int, flags: int, size: int) -> NoReturn:
        form = self._forms.get(number)
        if form is None:
            self._fail(f"there is no message with id {number}")
        if flags not in self._flags:
            self._fail(f"flags {flags:#x} in its header", form.name)
        self._fail(f"{size} bytes of payload announced, {form.largest} at most", form.name)

    def _fail(self, text: str, message: str | None = None) -> NoReturn:
        raise self._fault(text, device=self._device, message=message)


def _count(fds: int) -> str:
    return f"{fds} descriptor{'' if fds == 1 else 's'}"
