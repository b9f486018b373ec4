"""Tests of `emu.strategies`."""
