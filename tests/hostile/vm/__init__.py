"""Hostile back-ends, QMP clients, migration sources and arguments, on the commands of `emu`."""
