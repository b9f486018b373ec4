"""Virtio device types: feature bits, request formats and configuration spaces.

Front-ends, back-ends and the guest's drivers share these definitions. The conformance suite has
its own: a test does not take its expectations from the program under test.
"""
