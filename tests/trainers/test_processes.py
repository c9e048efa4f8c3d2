"""Worker processes of a rank import what the rank imports, and nothing of the folder in which it happens to work."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.foreign_modules import ForeignModules
from tests.support.paths import ROOT
from trainers.processes import module_command

WORKERS = """
import multiprocessing, random, subprocess, sys
from trainers import processes

def double(number):
    return 2 * number + 0 * random.getrandbits(1)

def main():
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        with context.Lock(), context.Pool(2) as pool:  # a lock starts multiprocessing's tracker of resources, too
            print(method, pool.map(double, [1, 2]))
    print(subprocess.run(processes.module_command("json.tool", "--help"), capture_output=True).returncode)

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("safe", ["", "1"])
def test_no_worker_takes_a_module_from_the_working_directory(tmp_path: Path, safe: str) -> None:
    for name in ("work", "lib"):
        (tmp_path / name).mkdir()
    foreign = ForeignModules(tmp_path / "work", tmp_path / "executed")
    (tmp_path / "lib/workers.py").write_text(WORKERS)
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path / 'lib'}", "PYTHONSAFEPATH": safe}
    done = subprocess.run(module_command("workers"), cwd=foreign.folder, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, foreign.executed) == (0, []), done.stderr
    assert done.stdout.splitlines() == ["spawn [2, 4]", "forkserver [2, 4]", "0"]
