"""The RFC's table and the unit costs derived from it."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

import pytest

from devices.procedure import Phase
from emu.config.costs import (
    MODELS,
    NATIVE,
    RFC2021,
    RFC_SHAPE,
    RFC_TABLE,
    RFC_TOTAL_CONCURRENT_MS,
    by_name,
)
from emu.errors import EmuError


def test_the_columns_add_up_as_in_the_document() -> None:
    assert sum(row.serial_ms for row in RFC_TABLE) == 5570
    assert sum(row.concurrent_ms for row in RFC_TABLE) == RFC_TOTAL_CONCURRENT_MS


def test_every_row_is_of_a_phase_that_exists() -> None:
    assert {row.phase for row in RFC_TABLE} < set(Phase)


def test_unit_costs_add_up_to_the_rows() -> None:
    for row in RFC_TABLE:
        devices, rings = RFC_SHAPE[row.device_class]
        steps = devices
        if row.phase in (Phase.GET_VRING_BASE, Phase.DISABLE_HOST_NOTIFY, Phase.ENABLE_HOST_NOTIFY):
            steps *= rings
        total = RFC2021.unit(row.phase, row.device_class) * steps * 1e3
        assert total == pytest.approx(row.serial_ms)


def test_units_keep_full_precision() -> None:
    assert RFC2021.backend_options("net") == {
        "--cost-get-vring-base": "2.6875ms",
        "--cost-set-mem-table": "3.0ms",
    }
    assert RFC2021.unit(Phase.GET_VRING_BASE, "blk") == pytest.approx(36 / 96 / 1e3, rel=1e-12)


def test_a_commit_has_the_latency_of_its_slowest_class() -> None:
    both = RFC2021.host_commit("dst", {"net", "blk"})
    assert both == RFC2021.host_commit("dst", {"net"}) == pytest.approx(2022 / 512 / 1e3)
    assert RFC2021.host_commit("src", {"blk"}) == pytest.approx(300 / 96 / 1e3)
    assert RFC2021.host_commit("src", ()) == 0


def test_guest_notifiers_have_a_latency_for_each_device() -> None:
    assert RFC2021.guest_device("dst", "net") == pytest.approx(310 / 16 / 1e3)
    assert RFC2021.guest_device("src", "blk") == pytest.approx(0.002)


def test_native_injects_no_latency() -> None:
    assert NATIVE.free
    assert not RFC2021.free
    assert NATIVE.host_commit("src", {"net"}) == NATIVE.guest_device("dst", "blk") == 0
    assert NATIVE.backend_options("blk") == {}


def test_by_name() -> None:
    assert [by_name(name).name for name in MODELS] == ["native", "rfc2021"]
    with pytest.raises(EmuError, match="native, rfc2021"):
        by_name("cheap")
