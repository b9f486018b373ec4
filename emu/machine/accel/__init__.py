"""Accelerators: they run guest code and implement notifiers."""
