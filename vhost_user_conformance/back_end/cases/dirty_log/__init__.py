"""The dirty log."""
