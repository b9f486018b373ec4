"""Live migration: strategies, the source's and the destination's side, RAM, downtime."""
