"""The control run of `bench.qemu_baseline`."""
