"""Tests of `emu.machine`."""
