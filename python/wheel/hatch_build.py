"""Adds the binary to the wheel."""

import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class AddBinary(BuildHookInterface):
    def initialize(self, version, build_data):
        build_data["force_include"][os.environ["JACOBI_WHEEL_BINARY"]] = "jacobi_forcing/bin/jacobi"
        # auditwheel replaces the platform by the oldest one that has the symbols of the binary.
        build_data["tag"] = "py3-none-linux_x86_64"
        # Into the same site-packages as torch, where a system has one for pure Python and one for the rest.
        build_data["pure_python"] = False
