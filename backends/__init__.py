"""Vhost-user back-end programs, the device's side of the socket."""
