"""The rules of the protocol, in our words, and the cases that cover each: the matrix."""

from __future__ import annotations

from emu.conformance.rules.devices import config, data_path, inflight, status
from emu.conformance.rules.header import header, structures
from emu.conformance.rules.messages import back_end_messages, features, front_end_messages
from emu.conformance.rules.migration import device_state, dirty_log, memory, postcopy
from emu.conformance.rules.ring_states import bases, notifications, reply_ack, ring_states
from emu.conformance.rules.robustness import errors, limits, programs

CHAPTERS = (
    header,
    structures,
    front_end_messages,
    back_end_messages,
    features,
    reply_ack,
    ring_states,
    bases,
    notifications,
    dirty_log,
    memory,
    postcopy,
    device_state,
    inflight,
    config,
    status,
    errors,
    programs,
    limits,
    data_path,
)
