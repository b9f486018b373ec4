"""Virtio devices at the front-end of a vhost-user connection."""
