"""Tests of the devices at the front-end."""
