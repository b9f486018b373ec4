"""The catalogue of cases: collected from a package that has a module or folder for each area."""

from __future__ import annotations

from importlib import import_module
from itertools import pairwise
from pkgutil import iter_modules
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from vhost_user_conformance.model.case import Area, Case


class CatalogueError(ValueError):
    """A package of cases does not hold the areas that it declares, or two cases have one id."""


def collect_areas(package: str, path: Iterable[str], order: Sequence[str]) -> tuple[Area, ...]:
    """The areas of a package, with the cases of all of its modules.

    Each module or folder directly under ``package`` is an area: its name is the area's name, and
    it has the attribute ``area``. All modules in a folder are imported, which registers their
    cases, so that no file can be forgotten.

    Args:
        package: name of the package, such as ``vhost_user_conformance.back_end.cases``.
        path: the package's ``__path__``.
        order: names of the areas in the order in which their cases run.

    Raises:
        CatalogueError: the package and ``order`` differ, or an area has another name.
    """
    areas = {found.name: _area(package, found.name) for found in iter_modules(path)}
    if areas.keys() != set(order):
        differing = ", ".join(sorted(areas.keys() ^ set(order)))
        raise CatalogueError(f"{package}: its files and its order of areas differ in {differing}")
    return tuple(areas[name] for name in order)


def _area(package: str, name: str) -> Area:
    module = import_module(f"{package}.{name}")
    for inner in iter_modules(getattr(module, "__path__", ())):
        import_module(f"{module.__name__}.{inner.name}")
    area: Area = module.area
    if area.name != name:
        raise CatalogueError(f"{module.__name__}: its area has the name {area.name}")
    return area


def cases_in(areas: Iterable[Area]) -> list[Case]:
    """The cases of these areas, by id.

    Raises:
        CatalogueError: two of them have the same id.
    """
    cases = sorted((case for area in areas for case in area.cases), key=lambda case: case.id)
    for one, other in pairwise(cases):
        if one.id == other.id:
            raise CatalogueError(f"{one.id} is the id of two cases")
    return cases
