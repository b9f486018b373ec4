"""Virtio devices, the front-end's side of the vhost-user socket."""
