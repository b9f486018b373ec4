"""Many peers: their file, the parts of their cases, and what becomes of them."""
