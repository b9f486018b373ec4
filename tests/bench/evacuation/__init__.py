"""The simulation of an evacuation, and what it is compared with."""
