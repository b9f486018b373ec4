"""Tests of `vhost_user.virtqueue`."""
