"""Contract tests of accelerators."""
