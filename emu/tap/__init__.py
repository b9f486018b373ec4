"""The tap: a transparent proxy between vhost-user front-ends and back-ends, which reads along."""
