"""Consoles of the commands: whether there are colours, and how wide lines may be.

On a terminal lines are wrapped at its width. In a pipe or a file no line is wrapped or cut, nothing
moves the cursor, and there are colours only if they are asked for: by ``FORCE_COLOR``, which
``--color`` sets. ``NO_COLOR``, which ``--no-color`` sets, means none anywhere (no-color.org,
force-color.org).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from typing import TextIO

#: Columns where there is no terminal: wider than any line.
UNLIMITED = 100_000


def console_for(stream: TextIO, *, wide: bool = False) -> Console:
    """The console of a stream.

    Args:
        stream: of the output.
        wide: as wide as in a pipe, also on a terminal.
    """
    terminal = stream.isatty()
    none = bool(os.environ.get("NO_COLOR"))  # empty means the same as missing
    forced = bool(os.environ.get("FORCE_COLOR")) and not none
    return Console(
        file=stream,
        highlight=False,
        # Names of devices and texts of peers are printed as they are: [red] is no colour there.
        markup=False,
        emoji=False,
        force_terminal=terminal,
        no_color=none,
        width=None if terminal and not wide else UNLIMITED,
        color_system="auto" if terminal else "standard" if forced else None,
    )


def choose_colors(*, wanted: bool) -> None:
    """Set what `console_for` looks at, for this process and those that it starts.

    Args:
        wanted: colours in any case, or never.
    """
    os.environ.pop("NO_COLOR" if wanted else "FORCE_COLOR", None)
    os.environ["FORCE_COLOR" if wanted else "NO_COLOR"] = "1"
