"""Builds the SQL scripts into the wheel, so that `pip install .` works in a checkout where nobody ran make."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        scripts = runpy.run_path(str(root / "tools" / "assemble.py"))["write"](root)
        # An editable installation and a source distribution read the checkout itself.
        if self.target_name == "wheel" and version != "editable":
            for path in [root / "gendurable.control", *scripts]:
                build_data["force_include"][str(path)] = f"gendurable_py/_sql/{path.name}"
