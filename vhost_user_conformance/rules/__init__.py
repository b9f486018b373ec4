"""The matrix: each rule of the protocol in a sentence, and the cases that cover it."""

from __future__ import annotations

from vhost_user_conformance.rules.devices import config, data_path, inflight, status
from vhost_user_conformance.rules.header import header, structures
from vhost_user_conformance.rules.messages import back_end_messages, features, front_end_messages
from vhost_user_conformance.rules.migration import device_state, dirty_log, memory, postcopy
from vhost_user_conformance.rules.ring_states import bases, notifications, reply_ack, ring_states
from vhost_user_conformance.rules.robustness import errors, limits, programs

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
