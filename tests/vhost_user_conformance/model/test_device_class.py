"""The table of device classes: what cases, options and the suite's back-end take from a row."""

from __future__ import annotations

import pytest

from vhost_user.features import ProtocolFeature
from vhost_user_conformance.front_end.device import Device
from vhost_user_conformance.model.device_class import (
    DEVICE_CLASSES,
    UNKNOWN,
    DeviceClass,
    load,
    one_of,
    row_of,
)
from vhost_user_conformance.peer.device_work import Work

ROWS = tuple(DEVICE_CLASSES.values())


@pytest.mark.parametrize("row", [*ROWS, UNKNOWN], ids=lambda row: row.name or "unknown")
def test_a_row_names_what_exists(row: DeviceClass) -> None:
    """Python classes, protocol features, and a configuration space within 256 bytes."""
    assert isinstance(load(row.played)(), Device)
    assert not row.work or isinstance(load(row.work)(), Work)
    assert set(row.protocol_features) <= set(ProtocolFeature.__members__)
    assert len(row.config) <= 256
    assert ("CONFIG" in row.protocol_features) == bool(row.config)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_requests_are_for_a_ring_that_the_device_has(row: DeviceClass) -> None:
    """The ring for requests is among the smallest number of rings."""
    work = load(row.work)
    assert work.ring < work.rings
    assert work.rings % row.rings_per_queue == 0


@pytest.mark.parametrize(("name", "queues", "limit"), [("blk", 4, 4), ("net", 4, 9), ("rng", 1, 1)])
def test_rings_of_queues(name: str, queues: int, limit: int) -> None:
    """As GET_QUEUE_NUM counts them, with a control ring."""
    assert row_of(name).ring_limit(queues) == limit


def test_an_unknown_class_has_no_requests() -> None:
    """Its row is that of a device without a class."""
    assert row_of("tape") is row_of("") is UNKNOWN
    assert not UNKNOWN.work


def test_help_marks_a_disk() -> None:
    """The plugin has the names from the table."""
    assert one_of() == "blk (its disk is OVERWRITTEN), net, fs or rng"
