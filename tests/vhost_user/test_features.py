"""Feature bits, what they depend on, and the dialects."""

from __future__ import annotations

from vhost_user.features import (
    DIALECTS,
    RUST_VMM,
    SPEC,
    ProtocolFeature,
    missing_dependencies,
)


def test_bits_are_numbered_without_a_gap() -> None:
    """The specification numbers protocol features 0 to 23."""
    assert [feature.value for feature in ProtocolFeature] == [1 << bit for bit in range(24)]


def test_missing_dependencies() -> None:
    """In-band notifications need a back-end channel and acknowledgements."""
    feature = ProtocolFeature
    lacking = missing_dependencies(feature.INBAND_NOTIFICATIONS | feature.REPLY_ACK)
    assert lacking == {feature.INBAND_NOTIFICATIONS: feature.BACKEND_REQ}
    assert not missing_dependencies(
        feature.INBAND_NOTIFICATIONS | feature.REPLY_ACK | feature.BACKEND_REQ
    )


def test_a_stop_without_completing_requests_needs_two_features() -> None:
    """GET_VRING_BASE_SKIP_DRAIN needs the inflight region, and that requests may stay in it."""
    feature = ProtocolFeature
    both = feature.GET_VRING_BASE_INFLIGHT | feature.INFLIGHT_SHMFD
    skip = feature.GET_VRING_BASE_SKIP_DRAIN
    assert missing_dependencies(skip | feature.INFLIGHT_SHMFD) == {
        skip: feature.GET_VRING_BASE_INFLIGHT
    }
    assert not missing_dependencies(skip | both)


def test_the_specification_numbers_each_feature() -> None:
    """Its dialect has the numbers of the enumeration."""
    assert {SPEC.protocol_feature(each.name or "") for each in ProtocolFeature} == {
        *ProtocolFeature
    }


def test_numbers_that_differ_belong_to_the_dialect() -> None:
    """SHMEM is bit 21 in rust-vmm's vhost 0.16; MQ is bit 0 everywhere."""
    assert SPEC.protocol_feature("SHMEM") == 1 << 22
    assert RUST_VMM.protocol_feature("SHMEM") == 1 << 21
    assert RUST_VMM.protocol_feature("GPA_ADDRESSES") is None
    assert RUST_VMM.protocol_feature("GET_VRING_BASE_SKIP_DRAIN") is None
    assert SPEC.protocol_feature("UNKNOWN") is None
    assert {d.protocol_feature("MQ") for d in DIALECTS.values()} == {ProtocolFeature.MQ}
