"""Real peers: programs of others, each skipped with the reason where it is not installed."""
