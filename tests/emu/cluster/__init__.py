"""Work on the workers of a scheduler."""
