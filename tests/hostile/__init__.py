"""The matrix of hostile peers: cells of (place, input), tried on running programs."""
