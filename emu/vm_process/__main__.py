"""The process of one VM: serves a monitor on an inherited socket."""

from __future__ import annotations

import argparse
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from emu.qmp.server import MonitorServer
from emu.strategies import registry
from emu.vm_process.commands import commands
from emu.vm_process.control import Control
from emu.vm_process.user_monitor import UserMonitor
from vhost_user import descriptor_table, tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from emu.qmp.protocol import EventSink, JsonObject
    from emu.vm_process.commands import VmControl


def serve(sock: socket.socket, make_control: Callable[[EventSink], VmControl]) -> None:
    """Serve the monitor on ``sock`` until its client disconnects, then release all resources."""
    servers: list[MonitorServer] = []  # the control needs `emit` before the server exists

    def emit(name: str, data: JsonObject) -> None:
        servers[0].emit(name, data)
        if name != "SHUTDOWN":
            users.emit(name, data)

    control = make_control(emit)
    executing = threading.Lock()
    users = UserMonitor(control, executing, emit)
    handlers = {**commands(control), "x-monitor": users.open}
    server = MonitorServer(sock, handlers, executing=executing)
    servers.append(server)
    try:
        server.serve()
    finally:
        users.close()
        control.close()
        server.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one VM, controlled by the monitor on the inherited socket."""
    # Each migration starts two of these processes: argparse is imported faster than click.
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--monitor-fd", type=int, required=True, help="A connected stream socket.")
    parser.add_argument(
        "--plugin",
        dest="plugins",
        type=Path,
        action="append",
        default=[],
        help="A Python file that defines strategies.",
    )
    options = parser.parse_args(arguments)
    descriptor_table.reserve()
    tracing.configure_from_environment("vm")
    for plugin in options.plugins:
        registry.load_file(plugin)
    serve(socket.socket(fileno=options.monitor_fd), Control)


if __name__ == "__main__":
    main()
