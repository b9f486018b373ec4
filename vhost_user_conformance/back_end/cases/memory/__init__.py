"""The memory table and memory slots."""
