"""Tests of `emu.config`."""
