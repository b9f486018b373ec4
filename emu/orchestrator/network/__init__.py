"""The network between a migrating VM and an echo client outside of it."""
