"""The plugin as pytest finds it: an entry point, which costs nothing without its options."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.vhost_user_conformance.pytest_plugin.sessions import (
    run,
)

if TYPE_CHECKING:
    import pytest


pytest_plugins = ("pytester",)


def test_without_its_options_it_imports_nothing(pytester: pytest.Pytester) -> None:
    """An installed package does not slow down other test suites."""
    pytester.makepyfile(
        """
        import sys

        def test_modules(pytestconfig):
            assert pytestconfig.pluginmanager.hasplugin("vhost-user")
            ours = ("emu", "vhost_user", "vhost_user_conformance", "backends")
            mine = {m for m in sys.modules if m.split(".")[0] in ours}
            plugin = "vhost_user_conformance.pytest_plugin"
            model = "vhost_user_conformance.model"
            assert mine == {
                "vhost_user_conformance", plugin, f"{plugin}.plugin", f"{plugin}.options",
                model, f"{model}.device_class",
            }
            assert not {"rich", "click", "cffi"} & set(sys.modules)
        """
    )
    run(pytester, "-p", "no:hypothesispytest").assert_outcomes(passed=1)
