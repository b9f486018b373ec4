"""Real peers: programs of other projects; tests of one that is not installed are skipped."""
