"""A worker takes the machines of a module that has objects of a framework in it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gendurable_py.cli.machines import load

MODULE = """
from flask import current_app, g, request, session
from gendurable_py import FSM, Done, job, step

class Strange:
    def __getattr__(self, name):
        raise ZeroDivisionError(name)

strange = Strange()

@job(name="framework_mail")
def mail(args): ...
"""


def test_a_module_with_proxies_of_flask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_of_proxies.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    [machine] = load(["shop_of_proxies"])
    assert machine is sys.modules["shop_of_proxies"].mail
