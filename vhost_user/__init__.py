"""The vhost-user protocol, and what both of its ends share: a library of its own."""
