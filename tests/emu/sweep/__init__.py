"""Sweeps: the matrix, the results that are kept, and the workers."""
