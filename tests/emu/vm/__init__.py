"""Tests of `emu.vm.vm`."""
