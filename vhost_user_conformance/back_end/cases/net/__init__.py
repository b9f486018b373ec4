"""Packets and the control queue of a NIC."""
