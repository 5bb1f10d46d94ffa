"""The original's own answers: every recorded universe and edge case of both versions, without a single difference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.policy.replay import file_differences, main

RECORDINGS = {
    "felix-3.24.5.json.gz": 4041,
    "edge-3.24.5.json.gz": 202,
    "felix-3.5.2.json.gz": 2068,
    "edge-3.5.2.json.gz": 172,
    "selectors.json": 630,
    "selectors-3.5.2.json": 630,
}
"""File -> steps."""


@pytest.mark.parametrize("name", RECORDINGS)
def test_equals_the_original(vectors: Path, name: str) -> None:
    steps = 0
    for step, found in file_differences(vectors / name):
        steps += 1
        assert not found, f"{step}: {found[0]}"
    assert steps == RECORDINGS[name]


def test_finds_a_difference(vectors: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recording with one wrong character must not pass."""
    forged = tmp_path / "selectors.json"
    forged.write_text((vectors / "selectors.json").read_text().replace('"canonical": "', '"canonical": "!', 1))
    assert main([str(forged)]) == 1
    assert capsys.readouterr().out.endswith("replay: 1 of 630 steps differ\n")


@pytest.mark.parametrize(("ci", "outcome"), [("", "1 skipped"), ("true", "1 error")])
def test_without_the_recordings_nothing_passes(tmp_path: Path, ci: str, outcome: str) -> None:
    """Skipped with the reason, and in CI a failure."""
    here = f"{Path(__file__).relative_to(Path.cwd())}::test_finds_a_difference"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rsE", "-p", "no:cacheprovider", here],
        env={**os.environ, "CI": ci, "TERWAY_VECTORS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert outcome in ran.stdout and "cyclonus_vectors.json" in ran.stdout, ran.stdout
    assert ran.returncode == (1 if ci else 0)


def test_an_error_counts_as_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recording that cannot be run differs from there on; the run goes on with the next case."""
    step = {
        "ops": [{"op": "apply", "object": {"kind": "Unheard"}}],
        "v1": [],
        "changed": {},
        "removed": {},
        "trace": [],
    }
    case = {"name": "odd", "mode": "crd", "in_sync_at_step": 9, "steps": [step, {**step, "ops": []}]}
    fine = {**case, "name": "fine", "steps": [{**step, "ops": []}]}
    (tmp_path / "odd.json").write_text(json.dumps({"felix": "3.24.5", "host": "node1", "cases": [case, fine]}))
    assert main([str(tmp_path / "odd.json")]) == 1
    assert capsys.readouterr().out.endswith("replay: 2 of 3 steps differ\n")
