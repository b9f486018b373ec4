"""Each bound of `backends.limits.BOUNDS`, tried from outside on a real program."""
