"""Accelerators: what runs guest code and carries notifiers."""
