"""Requests of a disk."""
