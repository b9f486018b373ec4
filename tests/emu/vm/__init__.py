"""Tests of `emu.vm`."""
