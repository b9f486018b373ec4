"""Hostile sources and destinations of a migration, on the processes of VMs."""
