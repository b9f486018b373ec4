"""The big lock, the order of locks, and the detector of deadlocks."""
