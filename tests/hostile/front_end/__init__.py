"""Hostile front-ends, on back-end programs of every device kind."""
