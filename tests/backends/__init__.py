"""Tests of the back-ends, driven from the other end of their sockets."""
