"""The programs in tools/, as modules."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

from support.server import ROOT


def load(name: str) -> ModuleType:
    """tools/NAME.py; what it imports from beside itself is found, too."""
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.append(folder)
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # a dataclass looks its module up
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
