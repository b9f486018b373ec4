"""The tap: a proxy between vhost-user front-ends and back-ends that decodes the messages."""
