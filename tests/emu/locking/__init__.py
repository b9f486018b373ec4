"""Tests of `emu.locking`."""
