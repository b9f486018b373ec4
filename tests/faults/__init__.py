"""The fault matrix: after any fault, at any point, the VM runs at exactly one side."""
