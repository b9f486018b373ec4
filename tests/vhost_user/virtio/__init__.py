"""Tests of `vhost_user.virtio`."""
