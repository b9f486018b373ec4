"""The big lock, the check of the lock order, and the deadlock detector."""
