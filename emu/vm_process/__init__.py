"""The process of one VM, which serves a monitor and obeys it."""
