"""tools/pythons.py: an index of packages that is out of reach is told from one that has not what is asked for."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "pythons.py"))


@pytest.mark.parametrize(
    "said",
    [
        "error: Request failed after 3 retries in 4.6s\n"
        "  cause: Failed to fetch: http://127.0.0.1:9/simple/six/\n"
        "  cause: error sending request for url (http://127.0.0.1:9/simple/six/)\n"
        "  cause: client error (Connect)\n",
        "error: Failed to fetch: `https://pypi.org/simple/six/`\n"
        "  Caused by: error sending request for url (https://pypi.org/simple/six/)\n"
        "  Caused by: dns error: failed to lookup address information\n",
        "  × Failed to download `six==1.16.0`\n"
        "  ├─▶ Failed to fetch: `https://pypi.org/six.whl`\n"
        "  ╰─▶ HTTP status server error (503 Service Unavailable) for url (https://pypi.org/six.whl)\n",
        "error: Failed to download distribution due to network timeout. Try increasing UV_HTTP_TIMEOUT\n",
    ],
)
def test_what_means_that_nobody_answers(said: str) -> None:
    assert TOOL["UNREACHED"].search(said)


@pytest.mark.parametrize(
    "said",
    [
        "error: No solution found when resolving dependencies\n"
        "  cause: Because networkx-of-ours was not found in the package registry and you require networkx-of-ours\n",
        "error: No solution found when resolving dependencies\n"
        "  cause: Because neural-network was yanked and dns error-free needs it\n",
        "  × Failed to build `thing==1.0`\n  ╰─▶ The build backend returned an error\n"
        "      ConnectionRefusedError: [Errno 111] Connection refused\n      no network here\n",
        "error: Failed to fetch: `https://pypi.org/simple/six/`\n"
        "  Caused by: HTTP status client error (401 Unauthorized) for url (https://pypi.org/simple/six/)\n",
    ],
)
def test_what_means_something_else(said: str) -> None:
    assert not TOOL["UNREACHED"].search(said)


def test_what_uv_says_today(tmp_path: Path) -> None:
    def asks(index: str, name: str) -> str:
        uv = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-cache", "--default-index", index, "-"]
        done = subprocess.run(
            uv,
            cwd=tmp_path,
            env={"UV_HTTP_RETRIES": "0", "HOME": str(tmp_path), "PATH": ""},
            input=name,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert done.returncode != 0
        return done.stderr

    assert TOOL["UNREACHED"].search(asks("http://127.0.0.1:9/simple", "six"))
    (tmp_path / "index" / "six").mkdir(parents=True)
    assert not TOOL["UNREACHED"].search(asks((tmp_path / "index").as_uri(), "six-network"))
