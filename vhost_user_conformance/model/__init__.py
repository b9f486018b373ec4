"""Cases, verdicts and results."""
