"""What the evacuation of a host takes: measured costs, a simulation, measured evacuations."""
