"""A VM process without a VM: serves QMP, and sends its request log over a real socket.

The environment variable ``FAKE_VM``, a list of words, selects its faults:

    refuse-create  die-at-start  die-in-migration  fail-migration  hang-migration  mute
    lose           other-disk    garbage-timeline  refuse-migration  no-report  busy
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from emu.errors import EmuError
from emu.guest.request_log import RequestLog
from emu.vm_process.__main__ import serve
from emu.vm_process.commands import VmControl

if TYPE_CHECKING:
    from emu.qmp.protocol import EventSink, JsonObject

WORDS = set(os.environ.get("FAKE_VM", "").split())
DOWNTIME = 0.002
#: The completion reports.
REPORT_OF_DESTINATION = {
    "downtime_ns": 4_000_000,
    "downtime_error_ns": 250_000,
    "guest_gap_ns": 5_000_000,
    "offset_ns": 0,
    "commits": 2,
    "spans": [["dst", "blk", "blk0", None, "dst.set_mem_table", 1_000_000, 3_000_000, 2, False]],
}
REPORT_OF_SOURCE = {
    "strategy": "split",
    "downtime_ns": 4_000_000,
    "downtime_error_ns": 250_000,
    "precopy": {"bytes": 1 << 20, "rounds": 2},
    "served": 10,
}


class FakeVm(VmControl):
    """A VM that only counts."""

    def __init__(self, emit: EventSink) -> None:
        self._emit = emit
        self._side = ""
        self._disk: Any = None
        self._log = RequestLog()
        self._marks: dict[str, int] = {}
        self._position = 0
        self._limit = 0
        self._loaded = False

    def create(
        self,
        *,
        name: str,
        spec: JsonObject,
        accel: str,
        costs: str,
        load: str,
        backends: JsonObject,
        disk: JsonObject | None = None,
        dirty_rate: int = 0,
    ) -> JsonObject:
        """Remember what matters."""
        if "refuse-create" in WORDS:
            raise EmuError("this host cannot have such a VM")
        devices = sum(group["count"] for group in spec["groups"])
        if len(backends) != devices or not all(map(os.path.exists, backends.values())):
            raise EmuError("a back-end's socket is missing")
        self._side, self._disk = name, disk
        return {"accel": "soft" if accel == "auto" else accel}

    def prepare(self) -> None:
        """There is nothing to build."""

    def start(self) -> None:
        """Boot."""
        if "die-at-start" in WORDS:
            sys.stderr.write("the fake machine caught fire\n")
            os._exit(7)
        self._loaded = True

    def incoming(
        self,
        uri: str,
        *,
        handover: bool = False,
        tls: list[str] | None = None,
        disks: JsonObject | None = None,
    ) -> JsonObject:
        """Listen, and take over whatever comes."""
        kind, _, address = uri.partition(":")
        if kind == "unix":
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(address)
        else:
            listener = socket.create_server(("127.0.0.1", 0))
            uri = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        listener.listen()
        threading.Thread(target=self._receive, args=(listener,), daemon=True).start()
        return {"uri": uri}

    def _receive(self, listener: socket.socket) -> None:
        with listener:
            while not self._receive_from(listener.accept()[0]):
                """A probe: it has disconnected without a migration."""

    def _receive_from(self, stream: socket.socket) -> bool:
        with stream, stream.makefile("rb") as lines:
            line = lines.readline()
            if not line:
                return False
            state = json.loads(line)
            if "refuse-migration" in WORDS:
                self._emit("MIGRATION", {"status": "failed", "error-desc": "no such disk"})
                return True
            self._log = RequestLog(**state["log"])
            self._position, self._limit = state["reader"]
            self._marks = {"running_ns": time.monotonic_ns()}
            self._loaded = True
            self._emit("RESUME", {})
            self._emit("MIGRATION", {"status": "completed"})
            stream.sendall(b"running\n")
        return True

    def set_parameters(self, parameters: JsonObject) -> None:
        """They change nothing here."""

    def query_parameters(self) -> JsonObject:
        """There are none."""
        return {}

    def migrate(
        self,
        uri: str,
        strategy: str,
        options: JsonObject,
        tls: list[str] | None = None,
        between: JsonObject | None = None,
        loopback_only: bool = False,
    ) -> None:
        """Send the request log from a thread."""
        if "die-in-migration" in WORDS:
            sys.stderr.write("Traceback\nKeyError: 'ring'\n")
            os._exit(1)
        if "hang-migration" not in WORDS:
            threading.Thread(target=self._send, args=(uri,), daemon=True).start()

    def _send(self, uri: str) -> None:
        self._emit("MIGRATION", {"status": "active"})
        self._emit("MIGRATION_PASS", {"pass": 1, "remaining": 4096, "bytes": 1 << 20})
        if "fail-migration" in WORDS:
            self._emit("MIGRATION", {"status": "failed", "error-desc": "net0: refused"})
            return
        kind, _, address = uri.partition(":")
        time.sleep(0.15)
        if kind == "unix":
            stream = socket.socket(socket.AF_UNIX)
            stream.connect(address)
        else:
            host, _, port = address.partition(":")
            stream = socket.create_connection((host, int(port)))
        self._marks = {"pause_start_ns": time.monotonic_ns()}
        time.sleep(DOWNTIME)
        state = {"log": self._log._asdict(), "reader": (self._position, self._limit)}
        with stream:
            stream.sendall(json.dumps(state).encode() + b"\n")
            stream.recv(100)
        self._loaded = False
        self._emit("STOP", {})
        self._emit("MIGRATION", {"status": "completed"})

    def cancel(self) -> None:
        """Whatever is under way ends."""
        if "mute" not in WORDS:
            self._emit("MIGRATION", {"status": "cancelled"})

    def stop(self) -> None:
        """Pause."""
        self._loaded = False

    def cont(self) -> None:
        """Go on."""
        self._loaded = True

    def reset(self) -> None:
        """Nothing is set up here."""

    def calc_dirty_rate(self, calc_time: int, mode: str = "dirty-bitmap") -> None:
        """Nothing is dirty here."""

    def query_dirty_rate(self) -> JsonObject:
        """Nothing was measured."""
        return {"status": "unstarted"}

    def query_migrate(self) -> JsonObject:
        """Nothing to tell."""
        return {}

    def query_status(self) -> JsonObject:
        """Running or not."""
        return {"status": "running" if self._loaded else "paused", "running": self._loaded}

    def timeline(self) -> JsonObject:
        """One span, in the blackout at the source, outside of it at the destination."""
        start = self._marks.get("pause_start_ns", 0)
        role = "src" if start else "dst"
        phase = "src.get_vring_base" if start else "dst.set_mem_table"
        span = [role, "blk", "blk0", None, phase, 1_000_000, 3_000_000, 2, bool(start)]
        answer = {"spans": [span], "marks": self._marks, "commits": 3}
        if "garbage-timeline" in WORDS:
            answer["spans"] = [["src", "blk"]]
        if start:
            answer["requests_in_flight_at_stop"] = 5
            answer["precopy"] = {"rounds": 2, "bytes": 1 << 20, "ms": 1.5}
            answer["destination"] = {} if "no-report" in WORDS else REPORT_OF_DESTINATION
        else:
            answer["source"] = {} if "no-report" in WORDS else REPORT_OF_SOURCE
        return answer

    def request_log(self) -> JsonObject:
        """Ten requests more each time, none of which ever needed a back-end."""
        lost = 1 if "lose" in WORDS else 0
        self._log = self._log._replace(requests=self._log.requests + 10, lost=self._log.lost + lost)
        return {**self._log._asdict(), "guest_gap_ns": 1_900_000}

    def quiesce(self, timeout: float) -> None:
        """No load any more."""
        if "busy" in WORDS:
            raise EmuError("3 requests are in flight")
        self._loaded = False

    def resume_load(self) -> None:
        """Load again."""
        self._loaded = True

    def stats(self) -> JsonObject:
        """Counters that grow with the time."""
        now = time.monotonic_ns()
        return {
            "now_ns": now,
            "classes": {
                "blk": {"requests": now // 1_000_000, "interrupts": now // 2_000_000},
                "net": {"packets": now // 500_000, "interrupts": now // 1_000_000},
            },
        }

    def verify(self, timeout: float, images: JsonObject) -> JsonObject:
        """All is well when the images are there."""
        if not all(os.path.getsize(path) for path in images.values()):  # noqa: PTH202
            raise EmuError("an image is empty")
        return {"checked": 4, "corrupted": 0, "images": len(images)}

    def disk_reader(self, action: str, limit: int | None = None) -> JsonObject:
        """Reads as fast as it is let."""
        size = self._disk["size"]
        if action == "start":
            self._position = 0
        if action != "status":
            self._limit = size if limit is None else limit
            self._position = max(self._position, self._limit)
        done = self._position == size
        digest = hashlib.sha256()
        with open(self._disk["path"], "rb") as file:  # noqa: PTH123
            digest.update(file.read())
        if "other-disk" in WORDS:
            digest.update(b"x")
        sha256 = digest.hexdigest() if done else None
        return {"position": self._position, "size": size, "done": done, "sha256": sha256}

    def release(self) -> None:
        """Empty again."""
        self._marks = {}

    def close(self) -> None:
        """Nothing to give back."""


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[sys.argv.index("--monitor-fd") + 1])), FakeVm)
