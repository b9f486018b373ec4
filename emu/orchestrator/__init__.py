"""Starts the processes of VMs and back-ends, and drives them over QMP."""
