"""The cases for back-ends: a module or a folder for each area, all of which are collected."""

from vhost_user_conformance.model.catalogue import collect_areas

#: The areas, in the order in which their cases run.
AREAS = collect_areas(
    __name__,
    __path__,
    (
        "sanity",
        "framing",
        "negotiation",
        "memory",
        "rings",
        "notifications",
        "bases",
        "reply_ack",
        "dirty_log",
        "config",
        "memory_slots",
        "multi_queue",
        "inflight",
        "data_blk",
        "data_net",
        "data_rng",
        "channel",
        "status",
        "device_state",
        "postcopy",
        "errors",
        "resources",
        "pipelining",
        "timing",
        "optional",
        "scripts",
        "program",
    ),
)
