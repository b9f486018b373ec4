"""What every back-end device owes to a front-end; a class joins by adding a `Kind` (served.py)."""
