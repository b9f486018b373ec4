"""What stands between the sides of a migration and a client outside of the VM."""
