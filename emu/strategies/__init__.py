"""Strategies: schedulers that drive the procedures of all devices."""
