"""The dashboard: an ASGI app that shows what runs, why something does not, and lets operators steer it.

`application` puts it together. `guard` is in front of every request (who asks, from where, what the answer may do),
`source` gives bounded looks at the database, `routes` has the pages, `acts` what can be done. There is no SQL here: all
data come through `gendurable_py.calls`. Needs the extra ``web``.
"""

from __future__ import annotations

try:
    from .application import app
except ModuleNotFoundError as error:
    _missing = (error.name or "").partition(".")[0]
    if _missing not in ("starlette", "jinja2", "markupsafe", "anyio"):
        raise
    raise ImportError(f"the dashboard needs {_missing}: pip install 'gendurable_py[web]'") from error
from .settings import Redact, User

__all__ = ["Redact", "User", "app"]
