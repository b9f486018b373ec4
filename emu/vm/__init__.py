"""A VM: the machine with its guest and its devices."""
