"""The machine: VMs with vhost-user devices, and their live migration."""
