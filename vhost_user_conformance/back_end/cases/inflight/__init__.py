"""The inflight region."""
