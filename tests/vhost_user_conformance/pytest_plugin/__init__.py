"""Tests of `vhost_user_conformance.pytest_plugin`."""
