"""The peers of `emu conform peers`: a TOML file with a table for each.

[my-backend]
exec = "my-backend {socket} {device}.img"
device = "blk"           # as --device; and so on: dialect, patience, scratch, destination
only = ["framing"]       # as --only
known = "known.txt"      # as --known

[my-vmm]
role = "front-end"       # without it the peer is a back-end
exec = "my-vmm {socket}"
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.errors import OptionError, PreflightError
from emu.json_input import Each, JsonInputError, Members, Real, check
from vhost_user import input_file
from vhost_user_conformance.errors import OptionError as PeerOptionError
from vhost_user_conformance.model.case import BACK_END
from vhost_user_conformance.target import (
    DEVICES,
    DIALECTS,
    LONGEST_PATIENCE,
    PATIENCE,
    ROLES,
    SHORTEST_PATIENCE,
    Target,
    cases_of,
    select,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vhost_user_conformance.model.case import Case

#: Bytes of a file, and peers in it.
MAX_BYTES, MAX_PEERS = 1 << 20, 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PEER = Members(
    {"exec": str},
    {
        **dict.fromkeys(("role", "device", "dialect", "destination", "known"), str),
        "patience": Real(SHORTEST_PATIENCE, LONGEST_PATIENCE),
        "scratch": bool,
        "only": Each(str),
    },
    closed=True,
)
_CHOICES = {"role": ROLES, "device": DEVICES, "dialect": DIALECTS}


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer.

    Attributes:
        name: of its table; files have it as well.
        target: how it is tested.
        only: the ids and areas of its cases; all if it is empty.
        known: a baseline of known failures.
    """

    name: str
    target: Target
    only: tuple[str, ...] = ()
    known: Path | None = None

    @property
    def cases(self) -> list[Case]:
        """The cases that are run."""
        return select(cases_of(self.target.role), self.only)


def read(path: Path) -> list[Peer]:
    """The peers of a file, in order.

    Raises:
        PreflightError: it cannot be read, or is no such file.
    """
    try:
        value = tomllib.loads(input_file.read(path, MAX_BYTES).decode())
    except OSError as error:
        raise PreflightError(f"{path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}: {error}") from None
    if not 1 <= len(value) <= MAX_PEERS:
        raise OptionError(f"{path}: it has {len(value)} peers; a file has 1 to {MAX_PEERS}")
    return [_peer(path, name, table) for name, table in value.items()]


def _peer(path: Path, name: str, value: Any) -> Peer:
    if not _NAME.fullmatch(name):
        raise OptionError(f"{path}: {name!r} is no name of a peer: use letters, digits, - and _")
    try:
        table: Mapping[str, Any] = check(value, _PEER)
        for key, choices in _CHOICES.items():
            if table.get(key, choices[0]) not in choices:
                raise OptionError(f"{key} is {table[key]!r}, not one of {', '.join(choices)}")
        target = Target(
            role=table.get("role", BACK_END),
            command=table["exec"],
            device=table.get("device", ""),
            dialect=table.get("dialect", DIALECTS[0]),
            patience=table.get("patience", PATIENCE),
            scratch=table.get("scratch", False),
            destination=table.get("destination"),
        )
        target.check()
        known = Path(table["known"]) if "known" in table else None
        peer = Peer(name, target, tuple(table.get("only", ())), known)
        peer.cases  # noqa: B018  raises for an unknown one
    except (JsonInputError, OptionError, PeerOptionError) as error:
        raise OptionError(f"{path}: [{name}]: {error}") from None
    return peer
