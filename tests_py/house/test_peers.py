"""bench/peers: it measures, each neighbour that it has is on the page with its version, and what was lost is told."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from bench.peers.__main__ import HERE, PEERS, Failed, Places, rate

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text("utf-8")
PROGRAM = """
import sys
from _clock import run
RUN = run()
RUN.start()
for number in range(RUN.count - {missing}):
    for step in range(RUN.steps):
        RUN.handle(number, step)
for _ in range({repeated}):
    RUN.handle(0)
RUN.wait(lambda: RUN.count)
"""


def test_it_measures_ourselves() -> None:
    command = [sys.executable, "-m", "bench.peers", "--only", "gendurable", "--rounds", "1", "--jobs", "30"]
    said = subprocess.run(
        [*command, "--instances", "10", "--flows", "10"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert said.returncode == 0, said.stderr
    assert len(re.findall(r"gendurable", said.stdout)) == 4 and "1.00" in said.stdout
    for what in ("instances", "functions"):
        assert f"round 1: {what} of five steps: gendurable: " in said.stderr


@pytest.mark.parametrize(("missing", "repeated"), [(0, 0), (1, 0), (0, 1)])
def test_a_run_that_lost_or_repeated_something_does_not_count(missing: int, repeated: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(missing=missing, repeated=repeated), "dsn", "steps", "3", "1"],
        env={"PYTHONPATH": str(HERE)},
        capture_output=True,
        text=True,
        check=True,
    )
    if missing or repeated:
        with pytest.raises(Failed, match="'missing': 5" if missing else "'repeated': 1"):
            rate(PEERS[0], 3, done.stdout)
    else:
        assert rate(PEERS[0], 3, done.stdout) > 0


def test_the_page_names_what_is_measured() -> None:
    pinned = (HERE / "requirements.txt").read_text("utf-8") + (HERE / "package.json").read_text("utf-8")
    for peer in (one for one in PEERS if one.program != "ours.py"):
        found = re.search(rf'{re.escape(peer.package)}(?:==|": ")([\d.]+)', pinned)
        assert found is not None, peer
        assert re.search(rf"^\| {re.escape(peer.name)} {re.escape(found[1])} \|", PAGE, re.MULTILINE), peer
        assert (HERE / peer.program).exists()


def test_an_interpreter_without_ourselves_is_refused_before_anything_runs(tmp_path: Path) -> None:
    # As it is, without what stands around it.
    venv.create(tmp_path / "bare")
    command = [sys.executable, "-m", "bench.peers", "--rounds", "1", "--python", tmp_path / "bare" / "bin" / "python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 2 and done.stdout == ""
    assert "has no gendurable, with which all are compared: make bench-peers" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    places = Places(sys.executable, str(tmp_path))
    assert places.version(PEERS[0]) is not None
    [node] = [peer for peer in PEERS if peer.program.endswith(".mjs")]
    assert places.version(node) is None
