"""The fault matrix: whatever fails, wherever and whenever, the VM runs on at one of both sides."""
