"""A back-end program in which a chosen point of serving a device raises an exception, or waits.

``python -m tests.backends.isolation.injector FD MODULE ARGUMENTS...`` runs the program of MODULE.
Orders come on the socket FD, one line of JSON each, and are answered with one line:

- ``{"record": DEVICE}``: note the points that are reached while that device is served;
- ``{"points": true}``: the points that were noted, in the order of their first occurrence;
- ``{"arm": DEVICE, "point": POINT, "error": NAME}``: raise once, where the point is reached next;
- ``{"fired": true}``: whether that has happened;
- ``{"hold": DEVICE, "point": POINT}``: have the thread that reaches the point next wait there;
- ``{"held": true}``: the name of the thread that waits, or null;
- ``{"release": true}``: let it go on.

A point is the entry of a function of this project, or a call of one that is in C (a system call, as
a rule) with the function that calls it. The interpreter's profiling hook finds both: an exception
that the hook raises is raised there.
"""

from __future__ import annotations

import importlib
import json
import os
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import blocking_call, io_pool, isolation

if TYPE_CHECKING:
    from types import CodeType, FrameType

ROOT = Path(__file__).parents[3]
PACKAGES = tuple(str(ROOT / name) + os.sep for name in ("backends", "vhost_user"))
#: The place that contains exceptions cannot be where they come from.
CONTAINS = isolation.__file__
#: Types of C whose methods are system calls.
DESCRIPTORS = ("socket", "epoll", "mmap")
ERRORS: dict[str, Exception] = {
    "KeyError": KeyError("injected"),
    "MemoryError": MemoryError(),
    "OSError": OSError(5, "injected"),
}


class Injector:
    """Notes points, or raises at one."""

    def __init__(self) -> None:
        self.points: dict[str, None] = {}
        self.fired = False
        self._device: str | None = None
        self._point: str | None = None
        self._error: Exception | None = None
        self._held: str | None = None
        self._released = threading.Event()

    def obey(self, order: dict[str, Any]) -> object:
        """Carry out an order; the answer."""
        if "record" in order:
            self.points = {}
            self._point, self._device = None, order["record"]
        elif "arm" in order:
            self.fired = False
            self._error, self._point = ERRORS[order["error"]], order["point"]
            self._device = order["arm"]
        elif "hold" in order:
            self._released.clear()
            self._error, self._point = None, order["point"]
            self._device = order["hold"]
        elif "held" in order:
            return self._held
        elif "release" in order:
            self._held = None
            self._released.set()
        elif "points" in order:
            self._device = None
            return list(self.points)
        elif "fired" in order:
            self._device = None
            return self.fired
        return None

    def profile(self, frame: FrameType, event: str, function: Any) -> None:
        """The hook: see `sys.setprofile`."""
        device = self._device
        if device is None or event not in ("call", "c_call"):
            return
        code = frame.f_code
        if code.co_filename == CONTAINS or not code.co_filename.startswith(PACKAGES):
            return
        point = _name(code)
        if event == "c_call":
            if not _is_system_call(function):
                return
            point += f" > {function.__qualname__}"
        if self._point not in (None, point) or not _serves(frame, device):
            return
        if self._point is None:
            self.points[point] = None
            return
        self._device = None
        self.fired = True
        if self._error is not None:
            raise self._error.with_traceback(None)
        self._held = threading.current_thread().name
        self._released.wait()


def _name(code: CodeType) -> str:
    return f"{Path(code.co_filename).stem}.{code.co_qualname}"


def _is_system_call(function: Any) -> bool:
    if getattr(function, "__module__", None) == "posix":
        return True
    return type(getattr(function, "__self__", None)).__name__ in DESCRIPTORS


def _serves(frame: FrameType | None, device: str) -> bool:
    """Whether the loop, or a thread of the pool, serves the device here."""
    while frame is not None:
        code = frame.f_code
        if code in (isolation._call.__code__, isolation._call_with.__code__):
            return str(frame.f_locals["part"].name).startswith(device)
        if code.co_filename in (io_pool.__file__, blocking_call.__file__):
            return True  # only the device of a test has requests there
        frame = frame.f_back
    return False


def _take_orders(injector: Injector, fd: int) -> None:
    with socket.socket(fileno=fd) as control, control.makefile("rw") as lines:
        for line in lines:
            print(json.dumps(injector.obey(json.loads(line))), file=lines, flush=True)


def main(fd: str, module: str, *arguments: str) -> None:
    """Run the program."""
    injector = Injector()
    threading.Thread(target=_take_orders, args=(injector, int(fd)), daemon=True).start()
    threading.setprofile(injector.profile)
    sys.argv[1:] = arguments
    importlib.import_module(module).main()


if __name__ == "__main__":
    main(*sys.argv[1:])
