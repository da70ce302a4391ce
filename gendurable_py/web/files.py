"""The static files: kept by browsers for as long as they like, under an address that changes with what is in them."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs

from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

HERE = Path(str(files("gendurable_py.web")))
_FOLDER = HERE / "static"


def fingerprint() -> str:
    """Changes with the static files; pages ask for them with it."""
    made = hashlib.sha256()
    for path in sorted(_FOLDER.iterdir()):
        if path.is_file():
            made.update(path.name.encode() + b"\0" + path.read_bytes())
    return made.hexdigest()[:12]


class Static(StaticFiles):
    """The files. Without the fingerprint of now a browser has to ask each time whether its own one is still right."""

    def __init__(self) -> None:
        super().__init__(directory=_FOLDER)
        self._fingerprint = fingerprint()

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, or that it has not changed."""
        answer = await super().get_response(path, scope)
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("v")
        is_named = asked == [self._fingerprint]
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable" if is_named else "no-cache"
        return answer
