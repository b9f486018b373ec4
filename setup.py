"""Builds the compiled extension; everything else is in pyproject.toml."""

from setuptools import setup

setup(cffi_modules=["vhost_user/_native_build.py:ffibuilder"])
