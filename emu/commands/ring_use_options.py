"""The options for the rings that the guest's drivers use; all commands with a VM share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from backends.options import option_group
from emu.config.device_kinds import KINDS, one_of
from emu.config.ring_use import RingUse, first_units, parse_rings
from emu.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

_ENABLING = [kind for kind in KINDS.values() if kind.enables_units]

#: Decorator: the options of `RingUseOptions`.
ring_use_options = option_group(
    click.option(
        "--rings-used",
        multiple=True,
        metavar="KIND=RINGS",
        help="The rings that the guest uses of each device of a kind, such as blk=1,3, net=0-3 or "
        "blk=none; it does not set up the others. Once for each kind. [default: all]",
    ),
    click.option(
        "--pairs-used",
        type=int,
        metavar="N",
        help=f"The guest enables the first N pairs of rings of each {_ENABLING[0].title}, as with "
        "VIRTIO_NET_CTRL_MQ; the others are set up, and disabled. [default: all]",
    ),
)


@dataclass(frozen=True, slots=True)
class RingUseOptions:
    """The values of `ring_use_options`."""

    rings_used: tuple[str, ...] = ()
    pairs_used: int | None = None


def ring_uses(options: RingUseOptions) -> dict[str, RingUse]:
    """The rings that the guest uses, by the kind's name; all of the other kinds.

    Raises:
        OptionError: a value is invalid, or two contradict each other.
    """
    uses: dict[str, RingUse] = {}
    for text in options.rings_used:
        name, _, rings = text.partition("=")
        if name not in KINDS or not rings:
            raise OptionError(
                f"--rings-used {text!r}: write it like blk=1,3 or blk=none; a kind is {one_of()}"
            )
        if name in uses:
            raise OptionError(f"--rings-used {text}: the rings of {name} are given twice")
        try:
            uses[name] = parse_rings(rings)
        except ValueError as error:
            raise OptionError(f"--rings-used {text}: {error}") from None
    if options.pairs_used is not None:
        uses |= _pairs(options.pairs_used, uses)
    return uses


def _pairs(pairs: int, uses: Mapping[str, RingUse]) -> dict[str, RingUse]:
    for kind in _ENABLING:
        if kind.name in uses:
            raise OptionError(f"--pairs-used {pairs}: --rings-used {kind.name}=... is given, too")
    try:
        return {kind.name: first_units(pairs, kind.rings_per_unit) for kind in _ENABLING}
    except ValueError as error:
        raise OptionError(f"--pairs-used {error}") from None
