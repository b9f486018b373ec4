"""Tests of the benchmarks: that they go on to work."""
