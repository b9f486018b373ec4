"""The monitor: a subset of QMP, over which one process controls a VM in another."""
