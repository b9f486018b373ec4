"""Tests of `vhost_user_conformance.rules`."""
