"""The options ``--color`` and ``--no-color``, which all commands have."""

from __future__ import annotations

import click


def _choose(context: click.Context, _option: click.Parameter, wanted: bool | None) -> None:  # noqa: FBT001  click's
    if wanted is None or context.resilient_parsing:
        return
    from vhost_user.console import choose_colors

    choose_colors(wanted=wanted)


#: Decorator: it has no value; `vhost_user.console` has the effect.
color_option = click.option(
    "--color/--no-color",
    default=None,
    is_eager=True,
    expose_value=False,
    callback=_choose,
    help="Use colours also in a pipe or a file, or never.  [default: on a terminal, without "
    "NO_COLOR]",
)
