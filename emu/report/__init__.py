"""Results, and how they are shown: tables, progress, sweeps."""
