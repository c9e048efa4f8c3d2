"""Owns a cluster that falls silent: profiles whose jobs sleep, wrappers of Slurm's commands that do the real thing and lose its answer, and
counting what jobs there ever were."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from fvlaunch.schedulers.slurm import site as slurm_site
from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.stubs import sleeping_profile
from tests.support.launcher import Workspace

PATIENT = ["MessageTimeout=2"]
"""For slurm.conf: how long Slurm's own commands wait for an answer, and so how long each silence of a test lasts."""
SUBMIT = ("submit", "tiny", "--cluster", "asleep", "--ranks", "1", "--no-snapshot", "--begin", "now+1hour")
LOST = 'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1'


class Silence:
    """A workspace on a cluster, with wrappers on its PATH."""

    def __init__(self, slurm: SlurmCluster, folder: Path, kind: type[Workspace] = Workspace) -> None:
        self.slurm, self.folder = slurm, folder
        (folder / "bin").mkdir()
        self.shell = kind(folder, {**slurm.env, "PATH": f"{folder / 'bin'}:{slurm.env['PATH']}"})
        sleeping_profile(self.shell)
        for name in ("squeue", "scontrol", "scancel", "sacct"):
            self.wrap(name, f'[ ! -e {folder}/down ] || {{ echo "{name}: error: Unable to contact slurm controller" >&2; exit 1; }}')

    def wrap(self, name: str, before: str, after: str = "", *, silent: bool = False) -> None:
        """Put a wrapper on PATH: what it does before the real command, and after it where that must not be the end."""
        real = self.slurm.run("which", name).stdout.strip()
        run = f'{real} "$@" >/dev/null 2>&1' if silent else f'{real} "$@"' if after else f'exec {real} "$@"'
        path = self.folder / "bin" / name
        path.write_text(f"#!/bin/bash\n{before}\n{run}\n{after}\n")
        path.chmod(0o755)

    def loses_the_reply(self) -> None:
        """sbatch takes the job; its answer is lost, and from then on nobody answers."""
        self.wrap("sbatch", "", f"touch {self.folder}/down; {LOST}", silent=True)

    def answers_again(self) -> None:
        (self.folder / "down").unlink(missing_ok=True)
        (self.folder / "bin/sbatch").unlink(missing_ok=True)

    def call(self, *arguments: str, code: int | None = None) -> subprocess.CompletedProcess[str]:
        done = self.shell.call(*arguments, check=False)
        assert "Traceback" not in done.stderr, done.stderr
        assert code is None or done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        return done

    def begun(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "fvlaunch", *command], cwd=self.folder, env=self.shell.env, text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def forget(self) -> None:
        """Have the commands of this process ask anew whether anybody answers, as a new process does."""
        slurm_site._known.clear()

    def goes_down(self, how: str) -> None:
        {
            "unreachable": (self.folder / "down").touch,
            "frozen": self.slurm.pause_ctld,
            "gone": self.slurm.stop_ctld,
            "without munge": self.slurm.stop_munge,
        }[how]()
        if how == "unreachable":
            self.wrap("sbatch", LOST)

    def comes_back(self, how: str) -> None:
        {
            "unreachable": self.answers_again,
            "frozen": self.slurm.resume_ctld,
            "gone": self.slurm.start_ctld,
            "without munge": self.slurm.start_munge,
        }[how]()

    def record(self, name: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads((self.shell.runs / name / "run.json").read_text())
        return value

    def jobs_ever(self) -> Counter[str]:
        """How many jobs of each name Slurm has known."""
        return Counter(self.slurm.run("squeue", "-h", "-t", "all", "-o", "%j").stdout.split())
