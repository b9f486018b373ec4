"""Virtqueues, driver side and device side: rings of buffers between a driver and a device."""

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
