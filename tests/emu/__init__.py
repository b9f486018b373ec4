"""Tests of the machine and its command."""
