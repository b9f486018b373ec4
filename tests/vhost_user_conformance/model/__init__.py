"""Tests of `vhost_user_conformance.model`."""
