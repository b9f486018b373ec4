"""Tests of `emu.orchestrator`."""
