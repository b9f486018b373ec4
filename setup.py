"""Builds the compiled extensions; everything else is in pyproject.toml."""

import platform
import sys

from setuptools import setup

MODULES = ["vhost_user/_native_build.py:ffibuilder"]
if sys.platform == "linux" and platform.machine() == "x86_64":
    # The guest of the KVM accelerator is x86-64 code.
    MODULES.append("emu/machine/accel/_kvm_build.py:ffibuilder")

setup(cffi_modules=MODULES)
