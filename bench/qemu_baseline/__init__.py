"""The control run: QEMU and this project's VM on the same back-ends, in alternation."""
