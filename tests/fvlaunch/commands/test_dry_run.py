"""What is printed before anything is queued: the dry run with its memory, and the batch script without a submission.

What Slurm itself says is in tests/integration/slurm/test_beforehand.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.profiles import Call, caller_beside_a_profile


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller_beside_a_profile(tmp_path, monkeypatch, capsys)


def test_a_dry_run_tells_the_memory_of_every_role_and_what_is_missing(call: Call, tmp_path: Path) -> None:
    code, out, err = call("submit", "dmd2", "--cluster", "lab", "--dry-run", "--ranks", "4")
    assert code == 1 and "kind: dmd2" in out and "#SBATCH --gpus-per-node=4" in out  # the data is not there, and that is told last
    for role in ("student", "teacher", "critic"):
        assert f"  {role}" in err
    assert "a GPU needs about" in err and err.index("a checkpoint takes") < err.index("error:") and "rewritten does not exist" in err
    assert not (tmp_path / "runs").exists()


def test_the_dry_runs_json_holds_the_memory(call: Call) -> None:
    code, out, _ = call("submit", "shapes-finetune", "--cluster", "lab", "--dry-run", "--json")
    found = json.loads(out)
    assert code == 0 and found["memory"]["peak"] > 0 and found["memory"]["roles"][0]["role"] == "student"
    code, out, _ = call("submit", "shapes", "--cluster", "lab", "--dry-run", "--json")
    assert code == 0 and [("memory" in stage) for stage in json.loads(out)["stages"]] == [True] * 3


@pytest.mark.parametrize("several", [("--dry-run", "--prepare"), ("--prepare", "--test-only")])
def test_one_thing_at_a_time(call: Call, several: tuple[str, ...]) -> None:
    code, _, err = call("submit", "shapes-finetune", "--cluster", "lab", *several)
    assert code == 1 and "exclude each other" in err


@pytest.mark.parametrize("what", ["--prepare", "--test-only"])
def test_what_needs_slurm_says_so(call: Call, what: str) -> None:
    code, _, err = call("submit", "shapes-finetune", "--cluster", "local", what)
    assert code == 1 and "hint:" in err


def test_what_is_prepared_is_complete_and_nothing_was_submitted(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sbatch", "squeue"):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ASKED\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    code, out, _ = call("submit", "shapes-finetune", "--cluster", "lab", "--prepare", "--name", "later", "--json")
    found = json.loads(out)
    script = Path(found["script"])
    assert code == 0 and found["command"] == f"sbatch {script}" and not (tmp_path / "ASKED").exists()
    assert script.read_text().startswith("#!/bin/bash") and (script.parent / "submitted.pkl").is_file()
    assert (tmp_path / "runs/later/code/fvlaunch").is_dir()
    record = json.loads((tmp_path / "runs/later/run.json").read_text())
    assert (record["state"], record["job_id"]) == ("submitting", None) and "sbatch" in record["reason"]


def test_a_pipeline_is_not_prepared(call: Call) -> None:
    code, _, err = call("submit", "shapes", "--cluster", "lab", "--prepare")
    assert code == 1 and "--prepare is of a single run" in err
