"""What a run is asked for: the VM, its plan, a migration's parameters, injected costs."""
