"""`emu attach`: the VM that its options describe. `tests/emu/orchestrator` runs it."""
# ruff: noqa: D103 - the names say what they are about

from __future__ import annotations

import pytest

from emu.commands import attach as module
from emu.commands.attach import AttachOptions, attach
from emu.config.device_kinds import KINDS
from emu.config.vm_spec import DeviceGroup
from emu.errors import OptionError


def options(*arguments: str) -> AttachOptions:
    context = attach.make_context("attach", list(arguments))
    return AttachOptions.of(context.params)


def test_sockets_are_those_of_each_kind_in_order() -> None:
    own = options("--blk", "b0", "--net", "n0", "--blk", "b1")
    assert own.sockets == {**dict.fromkeys(KINDS, ()), "blk": ("b0", "b1"), "net": ("n0",)}
    plan = module._plan(own)
    assert plan.spec.groups == (DeviceGroup("net", 1, 2), DeviceGroup("blk", 2, 1))
    assert plan.backends == {"net0": "n0", "blk0": "b0", "blk1": "b1"}


def test_rings_are_the_back_ends_choice_unless_they_are_given() -> None:
    assert not module._plan(options("--blk", "b")).rings_given
    plan = module._plan(options("--blk", "b", "--rings", "4"))
    assert (plan.rings_given, plan.spec.groups) == (True, (DeviceGroup("blk", 1, 4),))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "no back-end is given: use one or more of --net PATH, --blk PATH"),
        (("--net", "n", "--rings", "3"), "--rings 3: rings of NICs come in pairs"),
        (("--blk", "b", "--vcpus", "0"), "0 vCPUs"),
        (("--blk", "b", "--memory", "much"), "--memory 'much' is not a size"),
        (("--blk", "b", "--for", "soon"), "--for 'soon' is not a duration"),
    ],
)
def test_options_without_a_valid_vm_are_refused(arguments: tuple[str, ...], text: str) -> None:
    """Before a connection is opened."""
    with pytest.raises(OptionError, match=text):
        attach.main(list(arguments), standalone_mode=False)
