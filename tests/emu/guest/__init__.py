"""Tests of the guest: on a small machine, with real memory and real queues."""
