"""A disk at the front-end, against a real back-end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backends.control import ControlOptions
from devices.blk import VhostUserBlk
from tests.backends.served import KINDS, SECTORS, Served
from vhost_user.errors import BackendError
from vhost_user.messages import FrontendRequest, Reply
from vhost_user.payloads import Config
from vhost_user.virtio.blk import VIRTIO_BLK_F_RO

if TYPE_CHECKING:
    from pathlib import Path


def test_capacity_comes_from_the_back_end(tmp_path: Path) -> None:
    """From its config space."""
    served = Served(KINDS["blk"](), tmp_path, ControlOptions())
    disk = VhostUserBlk("blk0", [0x1000], [0])
    disk.connect(served.path)
    assert disk.capacity() == SECTORS
    assert not disk.has_feature(VIRTIO_BLK_F_RO)
    disk.close()
    served.close()


def test_a_part_of_the_configuration_space_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reply has as many bytes as were asked for."""
    served = Served(KINDS["blk"](), tmp_path, ControlOptions())
    disk = VhostUserBlk("blk0", [0x1000], [0])
    disk.connect(served.path)
    half = Reply(FrontendRequest.GET_CONFIG, Config(0, 0, bytes(30)), ())
    monkeypatch.setattr(disk.connection, "call", lambda *_: half)
    with pytest.raises(BackendError, match="sent 30 bytes of the 60 that were requested"):
        disk.capacity()
    disk.close()
    served.close()
