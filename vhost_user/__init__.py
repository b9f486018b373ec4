"""The vhost-user protocol, for front-ends and back-ends; a library of its own."""
