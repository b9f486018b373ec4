"""Tests of `vhost_user_conformance.front_end.cases`."""
