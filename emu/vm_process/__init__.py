"""The process of one VM, controlled by its monitor."""
