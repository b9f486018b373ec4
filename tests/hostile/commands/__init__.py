"""Files, sockets, addresses and peers that the user names, tried on each installed command."""
