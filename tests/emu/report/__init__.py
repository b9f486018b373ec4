"""Tests of `emu.report.tables`."""
