"""Where a private server can live: the user it runs as, and the directories that this user can enter."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

# A socket's path has room for 103 bytes on macOS and 107 on Linux; its name there takes up to 16.
_SOCKET_DIR_BYTES = 103 - 16
# initdb and pg_ctl put the path of their programs into a shell's double quotes, and in a list of hosts or of socket
# directories a comma separates.
_UNFIT = re.compile('["$`\\\\\n,\ud800-\udfff]')
_SHORT_DIRS = ("/tmp", "/var/tmp", "/dev/shm")


def server_user() -> str | None:
    """PostgreSQL refuses to run as root: then it runs as this system user."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise RuntimeError("PostgreSQL does not run as root, and there is neither a user postgres nor a user nobody")


def as_user(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def closed_to(user: str | None, paths: Iterable[Path]) -> str | None:
    """The first of the paths that the server's user cannot enter, or execute."""
    if user is None:
        return None
    look = 'for path; do [ -x "$path" ] || { printf "%s" "$path"; exit 1; }; done'
    done = subprocess.run(["sh", "-c", look, "sh", *paths], capture_output=True, cwd="/", check=False, **as_user(user))
    return os.fsdecode(done.stdout) if done.returncode else None


def temporary_folder(user: str | None, prefix: str, parent: str | None = None, *, plain: bool = False) -> Path:
    """A new one where the server's user gets to it. `plain`: of a name that is fit for a shell and a socket."""
    for folder in (parent or tempfile.gettempdir(), *_SHORT_DIRS):
        unfit = ("\n" in folder) or (plain and (_UNFIT.search(folder) or len(os.fsencode(folder)) > _SOCKET_DIR_BYTES))
        if not unfit and os.access(folder, os.W_OK | os.X_OK) and closed_to(user, [Path(folder)]) is None:
            made = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
            if user is not None:
                shutil.chown(made, user, pwd.getpwnam(user).pw_gid)
            return made
    raise RuntimeError(f"no directory for temporary files that the user {user} can enter: set TMPDIR")
