"""Notifiers, as messages name them."""
# ruff: noqa: D103 - the names say what they do

from __future__ import annotations

from devices.notifiers import ANY_VALUE, Ioeventfd


def test_names_of_ioeventfds() -> None:
    assert str(Ioeventfd(0x1000, 4, ANY_VALUE, 7)) == "the ioeventfd at 0x1000"
    assert str(Ioeventfd(0x1000, 4, 2, 7)) == "the ioeventfd at 0x1000 = 2"
