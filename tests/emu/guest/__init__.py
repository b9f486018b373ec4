"""Tests of the guest: on a small machine of their own, with real memory and real queues."""
