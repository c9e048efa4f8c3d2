"""Owns plans for the tests of batch scripts: a cluster profile with something of everything, and a recipe in the working directory."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from fvlaunch.config.compose import compose
from fvlaunch.lifecycle import job_specs
from fvlaunch.planning.plan import Plan, make_plan
from fvlaunch.runs.directory import Run

TOKEN = "0123456789abcdef"
RECIPE = """\
extends: base/shapes
train:
  max_steps: 5
  method: {kind: finetune}
  optimizers: {student: {kind: adamw, lr: 1e-3}}
"""
CLUSTER: dict[str, Any] = {
    "executor": "slurm",
    "python": "/opt/venv/bin/python",
    "paths": {"data": "/data"},
    "slurm": {"partition": "main", "gpus-per-node": 4, "cpus-per-task": 32, "time": "24:00:00", "comment": "project x", "exclusive": True},
    "srun_args": ["--mpi=none"],
    "setup": "module load cuda\nsource activate",
    "env": {"NCCL_DEBUG": "WARN"},
}


def make(runs_dir: Path, environment: dict[str, str] | None = None, **changes: Any) -> Plan:
    Path("clusters/lab.yaml").write_text(yaml.safe_dump({**CLUSTER, **changes}))
    composed = compose("own.yaml", "lab")
    return make_plan(composed, now=datetime(2026, 1, 2), cwd=Path.cwd(), name="run-1", ranks=8, runs_dir=runs_dir, shell=environment)


def script_of(plan: Plan) -> str:
    run = Run(plan.path)
    (run.code / "fvlaunch").mkdir(parents=True, exist_ok=True)
    text = job_specs.batch_script(run, plan, TOKEN)
    assert text is not None
    return text
