"""A device of each kind, and a front-end to it."""
# ruff: noqa: D103 - the names say what they are

from __future__ import annotations

from typing import TYPE_CHECKING, Unpack

import pytest

from tests.backends.contract.given import NATIVE, MakeRig, Serve
from tests.backends.rig import Rig, RigOptions
from tests.backends.served import KINDS, Kind, Served

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backends.control import ControlOptions
    from vhost_user.frontend import FrontendConnection


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]()


@pytest.fixture
def serve(kind: Kind, tmp_path: Path) -> Iterator[Serve]:
    served: list[Served] = []

    def make(options: ControlOptions = NATIVE) -> Served:
        served.append(Served(kind, tmp_path, options))
        return served[-1]

    yield make
    for one in served:
        one.close()


@pytest.fixture
def make_rig(kind: Kind) -> Iterator[MakeRig]:
    rigs: list[Rig] = []

    def make(connection: FrontendConnection, **options: Unpack[RigOptions]) -> Rig:
        rigs.append(Rig(connection, kind.rings, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        rig.close()


@pytest.fixture
def device(serve: Serve) -> Served:
    return serve()


@pytest.fixture
def rig(device: Served, make_rig: MakeRig) -> Rig:
    return make_rig(device.connect())


@pytest.fixture
def running(kind: Kind, rig: Rig) -> Rig:
    rig.start()
    kind.prepare(rig)
    return rig
