"""One connection costs one device at the most: faults in a device of a real program with two."""
