"""Sweeps: which VMs migrate, where each of them does, and where the results are kept."""
