"""Reports as one self-contained page of HTML, and as one picture."""
