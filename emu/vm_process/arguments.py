"""The arguments of monitor commands that are objects: what their members have to be."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from emu.errors import EmuError
from emu.json_input import Each, JsonInputError, Map, Maybe, Members, Shape, Whole, check

if TYPE_CHECKING:
    from emu.qmp.protocol import JsonObject

#: ``options`` of migrate: those of `StrategyOptions`.
OPTIONS = Members({}, {"threads": int, "processes": int, "unsafe": str})
#: ``between`` of migrate.
BETWEEN = Members({}, {"disks": Maybe(Map(object)), "stats": Maybe(Each(str))})
#: ``disk`` of x-create.
DISK = Members({"path": str, "size": Whole(), "writable": bool})


def checked(value: JsonObject, shape: Shape, name: str) -> JsonObject:
    """An argument with the members that its shape names.

    Raises:
        EmuError: it has another shape.
    """
    try:
        members: JsonObject = check(value, shape, name)
    except JsonInputError as error:
        raise EmuError(f"Invalid parameter: {error}") from None
    return members


def images_by_number(images: JsonObject) -> dict[int, str]:
    """The argument ``images`` of x-verify: the path of each disk's image, by the disk's number.

    Raises:
        EmuError: it is something else.
    """
    for number in checked(images, Map(str), "images"):
        if re.fullmatch("[0-9]{1,4}", number) is None:
            raise EmuError(f"Invalid parameter: images.{number} is not the number of a disk")
    return {int(number): path for number, path in images.items()}
