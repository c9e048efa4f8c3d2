"""Promises of the rows of cuda.py that make a recipe's steps, on the simulated device where FVLAUNCH_GPU_SIM names one."""

from __future__ import annotations

import json
import subprocess

import pytest

from tests.benchmarks.cuda_rows import Check, Figure
from tests.gpu import environment
from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(environment.of() is None, reason=f"no simulated GPU here: python -m tests.gpu make; {environment.VARIABLE}")

SCRIPT = """
import dataclasses, json, os, torch
torch.backends.cudnn.enabled = False  # it asks the device for more than a simulated one knows
torch.backends.cuda.enable_cudnn_sdp(False)
from tests.benchmarks import cuda_presets
from tests.gpu import stand_ins
with stand_ins.installed():
    print(json.dumps([dataclasses.asdict(row) for row in cuda_presets.rows("dmd2-vsa", layers=2)]), flush=True)
os._exit(0)
"""


def test_a_recipe_of_two_kinds_of_steps_is_measured_beside_its_estimate() -> None:
    place = environment.of()
    assert place is not None
    done = subprocess.run([place.python, "-c", SCRIPT], cwd=ROOT, env=place.variables(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    waits, memory, critic, student = json.loads(done.stdout.splitlines()[-1])
    assert Check(**waits).kept and Check(**memory).kept, (waits, memory)
    for figure in (Figure(**critic), Figure(**student)):
        assert figure.step_s and figure.peak_gb and figure.reserved_gb and figure.estimated_gb
        assert figure.peak_gb <= figure.reserved_gb
    assert critic["name"] == "dmd2-vsa, 2 layers: critic" and student["name"] == "dmd2-vsa, 2 layers: student"
