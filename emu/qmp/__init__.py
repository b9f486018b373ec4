"""The monitor: a subset of QMP, over which one process drives a VM in another."""
