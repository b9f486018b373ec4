"""Mutants: mistakes in our own endpoints, each of which a case of the suite has to find."""
