"""The guest: drivers and workloads that run on the machine's vCPUs and live in its memory."""
