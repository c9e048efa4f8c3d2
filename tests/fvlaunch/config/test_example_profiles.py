"""Every example profile resolves, says where it runs and gives a batch script that bash takes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fvlaunch.commands import dry_run as dry_run_command
from fvlaunch.config import lookup
from fvlaunch.planning import planner

NAMES = [entry.name for entry in lookup.listing("cluster", Path("/")) if entry.name.startswith("example-")]
IN_THE_SCRIPT = {
    "example-slurm": "--gpus-per-node=1",
    "example-pyxis": "--container-image=/scratch/me/images/fvlaunch.sqsh --container-mounts=/scratch/me:/scratch/me,",
    "example-apptainer": "/scratch/me/images/python-in-container -u -c ",
    "example-conda": "module load cuda",
    "example-uv": "/scratch/me/fvlaunch/.venv/bin/python -u -c ",
}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_profile_gives_a_script_that_does_what_it_says(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USER", "me")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    composed, plan = planner.plan_submission(
        "shapes-finetune", name, sets=[], name="r", ranks=None, nodes=None, sbatch={}, runs_dir=None, look=False
    )
    script = dry_run_command.script(plan)
    assert IN_THE_SCRIPT[name] in script and composed.cluster.description
    assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False).stderr == ""


def test_there_is_an_example_for_each_way_to_bring_python_along() -> None:
    assert set(NAMES) == set(IN_THE_SCRIPT)
