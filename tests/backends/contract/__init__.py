"""The contract of every back-end device; a class joins it with a `Kind` in `served.KINDS`."""
