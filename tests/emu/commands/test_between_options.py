"""Invalid options of a migration between two runs."""

from __future__ import annotations

import pytest

from emu.commands.between_options import BetweenOptions, endpoint_of
from emu.errors import OptionError


@pytest.mark.parametrize(("option", "listens"), [("--to", False), ("--incoming", True)])
@pytest.mark.parametrize(
    "uri",
    ["", "foo", "unix:", "tcp:", "tcp:host", "tcp:host:", "tcp:host:65536", "tcp::1", "tls:host:1"],
)
def test_what_is_not_an_address_is_refused_with_the_option(
    option: str, uri: str, *, listens: bool
) -> None:
    """The text begins with the option and the address, without the name of a phase."""
    options = BetweenOptions(None, None, None, None, False)
    with pytest.raises(OptionError) as error:
        endpoint_of(option, uri, options, listens=listens)
    assert str(error.value).startswith(f"{option} {uri!r} is not an address")
