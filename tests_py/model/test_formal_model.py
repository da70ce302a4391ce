"""The protocol as small models for Spin (docs/model): every interleaving holds, and every seeded bug is found."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

MODELS = Path(__file__).resolve().parents[2] / "docs" / "model"

pytestmark = pytest.mark.skipif(
    shutil.which("spin") is None or shutil.which("gcc") is None,
    reason="needs spin and gcc (apt-get install spin gcc)",
)

# model, and the scenario: each is checked to its last state
SOUND = [
    ("claim", "FAULTS=1 EARLY=1"),
    ("signal", ""),
    ("barrier", "OPERATORS=2 FAULTS=0 EARLY=0"),
    ("barrier", "OPERATORS=1"),
    ("key", "HOLDS=1 EXTRA=2"),
    ("key", "HOLDS=1 FAULTS=1"),
    ("key", "HOLDS=1 K=2"),
    ("key", "HOLDS=1 CANCELS=1 EXTRA=0"),
    ("key", "HOLDS=1 MOVES=1 EXTRA=0"),
    ("key", "HOLDS=1 PAUSES=1 EXTRA=0"),
    ("key", "CANCELS=1 PAUSES=1 EXTRA=0"),
    ("key", "CANCELS=1 RESUMES=1 QUEUE0=6 EXTRA=0"),
]

# every fair run ends
LIVE = [("claim", "FAULTS=0 EARLY=1"), ("signal", "FAULTS=0"), ("barrier", "OPERATORS=0 FAULTS=0 EARLY=0")]

BUGS = [
    ("claim", "FAULTS=1 EARLY=1", "CLAIM_IGNORES_LEASE"),
    ("claim", "FAULTS=1 EARLY=1", "PICK_WITHOUT_LOCK"),
    ("claim", "FAULTS=1 EARLY=1", "CLAIM_NO_COUNTS_ONLY"),
    ("claim", "FAULTS=1 EARLY=1", "NO_FENCE"),
    ("claim", "FAULTS=1 EARLY=1", "KEEP_SAME_NUMBER"),
    ("claim", "FAULTS=1 EARLY=1", "REAP_TRUSTS_THE_WALK"),
    ("signal", "", "AWAIT_READS_BEFORE_LOCK"),
    ("signal", "", "SHOWN_IS_ALL"),
    ("signal", "", "CONSUME_ALL"),
    ("signal", "", "NO_CONSUME"),
    ("signal", "", "SIGNAL_LOOKS_WITHOUT_LOCK"),
    ("signal", "", "SIGNAL_NEVER_WAKES"),
    ("barrier", "FAULTS=0 EARLY=0", "BARRIER_UNNUMBERED"),
    ("barrier", "FAULTS=0 EARLY=0", "RETRY_NOT_COUNTED"),
    ("barrier", "FAULTS=0 EARLY=0", "END_SKIPS_PARENT"),
    ("barrier", "FAULTS=0 EARLY=0", "COUNT_READ_BEFORE_LOCK"),
    ("barrier", "FAULTS=0 EARLY=0", "RETRY_READS_BEFORE_LOCK"),
    ("key", "", "DROP_BATON"),
    ("key", "", "NO_KEY_LOCK"),
    ("key", "CANCELS=1", "CANCEL_DROPS_BATON"),
    ("key", "HOLDS=1", "LOCKED_HEAD_IS_SKIPPED"),
    ("key", "HOLDS=1", "PARK_BEHIND_A_LOCKED_HEAD"),
    ("key", "HOLDS=1", "BATON_LOSES_ITS_TURN"),
    ("key", "FAULTS=2", "CHORES_AFTER_HEADS"),
    ("key", "HOLDS=1 PAUSES=1 EXTRA=0", "CARRIER_IN_A_PAUSED_QUEUE"),
    ("key", "HOLDS=1 PAUSES=1 EXTRA=0", "UNSETTLED_WITHOUT_DOUBT"),
    ("key", "HOLDS=1 PAUSES=1 EXTRA=0", "NO_CARRIER_NO_DOUBT"),
    ("key", "HOLDS=1 PAUSES=1 EXTRA=0", "DOUBT_ENDS_BEHIND_A_LOCKED_HEAD"),
    ("key", "HOLDS=1 PAUSES=1 EXTRA=0", "DECISION_PASSES_OVER_A_LOCKED_HEAD"),
    ("key", "PAUSES=1 EXTRA=0", "HOLDERS_OF_THE_KEY_ARE_TRUSTED"),
    ("key", "PAUSES=1 EXTRA=0", "DECISION_READS_BEFORE_HOLDERS_END"),
    ("key", "PAUSES=1 EXTRA=0", "NEVER_SETTLES"),
    ("key", "PAUSES=1", "SETTLES_AFTER_READING"),
]


def check(folder: Path, model: str, flags: list[str], *, live: bool = False, quick: bool = False) -> str:
    defines = [f"-D{flag}" for flag in flags]
    kind = ["-DNFAIR=3"] if live else ["-DSAFETY", "-DNOCLAIM"]
    run = ["./pan", "-m200000", "-w20", *(["-a", "-f"] if live else [])]
    for command in (
        ["spin", "-a", *defines, str(MODELS / f"{model}.pml")],
        ["gcc", "-O0" if quick else "-O1", "-w", "-DCOLLAPSE", "-DMEMLIM=1900", *kind, "-o", "pan", "pan.c"],
        run,
    ):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    # A search that was cut short proves nothing.
    assert "max search depth too small" not in done.stdout
    return done.stdout


@pytest.mark.parametrize(("model", "scenario"), SOUND, ids=lambda value: value or "default")
def test_no_interleaving_breaks_an_invariant_or_gets_stuck(tmp_path: Path, model: str, scenario: str) -> None:
    answer = check(tmp_path, model, scenario.split())
    assert "errors: 0" in answer, answer
    assert "Search not completed" not in answer


@pytest.mark.parametrize(("model", "scenario"), LIVE, ids=lambda value: value or "default")
def test_every_fair_run_ends(tmp_path: Path, model: str, scenario: str) -> None:
    answer = check(tmp_path, model, scenario.split(), live=True)
    assert "errors: 0" in answer, answer
    assert "Search not completed" not in answer


@pytest.mark.parametrize(("model", "scenario", "bug"), BUGS, ids=[bug for _, _, bug in BUGS])
def test_a_seeded_bug_is_found(tmp_path: Path, model: str, scenario: str, bug: str) -> None:
    answer = check(tmp_path, model, [*scenario.split(), f"BUG_{bug}"], quick=True)
    assert "errors: 1" in answer, answer
    assert "assertion violated" in answer or "invalid end state" in answer


def test_every_seeded_bug_of_the_models_is_tried() -> None:
    named = {
        word.strip("()!|&")
        for path in MODELS.glob("*.pml")
        for line in path.read_text().splitlines()
        if line.startswith("#if")
        for word in line.replace("(", " ").replace(")", " ").split()
        if word.startswith("BUG_")
    }
    assert named == {f"BUG_{bug}" for _, _, bug in BUGS}
