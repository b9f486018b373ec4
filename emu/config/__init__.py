"""Settings of a run: the VM, its plan, migration parameters, cost models, device kinds."""
