"""One harness a module: its docstring states its invariant, `one_input` checks it."""
