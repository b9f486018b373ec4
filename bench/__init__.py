"""Benchmarks of migration, protocol, rings and notifiers."""
