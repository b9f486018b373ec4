"""The cases for front-ends: a module or a folder for each area, all of which are collected."""

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
        "channel",
        "status",
        "device_state",
        "errors",
        "resources",
        "timing",
        "data_path",
    ),
)
