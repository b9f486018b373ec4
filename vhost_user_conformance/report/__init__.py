"""How results and cases are shown, in the terminal and as documents."""
