"""A local run and a pipeline's stages run the code that was submitted, also where a checkout is the working directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.launcher import Workspace
from tests.support.paths import ROOT
from tests.support.pipelines import Chain

BY_FILE = "import sys\nfrom fvlaunch.cli.app import run\nsys.exit(run(sys.argv[1:]))\n"
"""What the command `fvlaunch` is: unlike `python -m fvlaunch` it does not look for the launcher in the working directory."""


def test_code_in_the_working_directory_is_not_what_runs(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workspace = Workspace(tmp_path / "checkout", environment)
    chain = Chain(workspace, steps=4)
    for package in ("fvlaunch", "trainers"):
        workspace.write(f"{package}/__init__.py", f"raise SystemExit('{package} of the working directory')\n")
    command = workspace.write("../fvlaunch-command.py", BY_FILE)
    for words in (["submit", "chain", "--cluster", "here", "--name", "whole"], ["wait", "whole"]):
        argv = [sys.executable, str(command), *words]
        done = subprocess.run(argv, cwd=workspace.folder, env=workspace.env, capture_output=True, text=True, timeout=280, check=False)
        assert done.returncode == 0, f"{done.stderr}\n{workspace.told()}"
        chain.first("whole").open()
    assert chain.record("whole", "second")["state"] == "finished"
