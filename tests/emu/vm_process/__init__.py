"""Tests of `emu.vm_process`."""
