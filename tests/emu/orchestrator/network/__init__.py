"""Tests of `emu.orchestrator.network`."""
