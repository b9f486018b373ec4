"""The subcommands of `emu`, one module each."""
