"""A network of namespaces: the descriptors that keep it, and the error without one."""
# ruff: noqa: D103 - the name of a test, or of a part of one, is its documentation

from __future__ import annotations

from pathlib import Path

import pytest

from emu.orchestrator.network import namespaces
from emu.orchestrator.network.namespaces import NamespaceNetwork, NetworkUnavailableError
from tests.emu.orchestrator.network.spaces import holders, interfaces


def test_the_network_is_invisible_outside_of_its_namespaces(network: NamespaceNetwork) -> None:
    before = interfaces()
    assert len(network.taps) == 2
    assert not {"uplink", "bridge", "client", "tap0"} & before
    kept = {str(Path(f"/proc/self/fd/{fd}").readlink()) for fd in network._fds}
    spaces = {name for name in kept if name.startswith("net:[")}
    assert len(spaces) == 4
    network.close()
    assert not spaces & holders()
    assert interfaces() == before


def test_the_reason_is_printed_if_the_network_cannot_be_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    silent = tmp_path / "python"
    silent.write_text("#!/bin/sh\necho no such module >&2\n")
    silent.chmod(0o755)
    monkeypatch.setattr(namespaces, "PYTHON", (str(silent),))
    with pytest.raises(NetworkUnavailableError, match="ended unexpectedly: no such module"):
        NamespaceNetwork.build()
