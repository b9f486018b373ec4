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
    """The specification numbers protocol features 0 to 20."""
    assert [feature.value for feature in ProtocolFeature] == [1 << bit for bit in range(21)]


def test_missing_dependencies() -> None:
    """In-band notifications need a back-end channel and acknowledgements."""
    feature = ProtocolFeature
    lacking = missing_dependencies(feature.INBAND_NOTIFICATIONS | feature.REPLY_ACK)
    assert lacking == {feature.INBAND_NOTIFICATIONS: feature.BACKEND_REQ}
    assert not missing_dependencies(
        feature.INBAND_NOTIFICATIONS | feature.REPLY_ACK | feature.BACKEND_REQ
    )


def test_moving_bits_belong_to_the_dialect() -> None:
    """SHMEM is bit 22 in the drafts and bit 21 in rust-vmm's release; MQ is bit 0 everywhere."""
    assert SPEC.protocol_feature("SHMEM") == 1 << 22
    assert RUST_VMM.protocol_feature("SHMEM") == 1 << 21
    assert RUST_VMM.protocol_feature("GPA_ADDRESSES") is None
    assert {d.protocol_feature("MQ") for d in DIALECTS.values()} == {ProtocolFeature.MQ}
