"""Benchmarks: what the migration, the protocol, the rings and the notifiers cost."""
