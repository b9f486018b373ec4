"""The machine: guest RAM, the address space, interrupt routing, vCPUs, accelerators."""
