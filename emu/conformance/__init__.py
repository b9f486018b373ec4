"""The conformance suite on many peers, in parts that run on workers."""
