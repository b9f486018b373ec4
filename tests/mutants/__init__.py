"""The proof of the conformance suite: mistakes in our own endpoints, each found by a case."""
