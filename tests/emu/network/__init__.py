"""Tests of `emu.network`."""
