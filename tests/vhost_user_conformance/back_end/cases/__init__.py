"""Tests of `vhost_user_conformance.back_end.cases`."""
