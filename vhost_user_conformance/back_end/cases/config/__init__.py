"""The device's configuration space."""
