"""Tests of the devices, front-end side."""
