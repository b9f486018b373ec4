"""Virtqueues, both sides: the rings through which a driver hands buffers to a device."""

from vhost_user.virtqueue.layout import RingAddresses, split_offsets, split_sizes
from vhost_user.virtqueue.split_device import Chain, DeviceQueue
from vhost_user.virtqueue.split_driver import DriverQueue, QueueFull

__all__ = [
    "Chain",
    "DeviceQueue",
    "DriverQueue",
    "QueueFull",
    "RingAddresses",
    "split_offsets",
    "split_sizes",
]
