"""How much longer `fvlaunch submit` takes than sbatch alone, whole processes: `python tests/benchmarks/submitting.py [ROUNDS]`.

On a real Slurm that it starts itself (where it is not installed nothing is measured, and that is said). By turns with `sbatch` of the
same batch script, from a copy of our packages as an installed one is (a checkout with edits is asked for its patch besides). Judged by
the fastest of each, which others on the machine change least. Ends with 1 where the limit is not kept.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tests.integration.slurm.cluster import SlurmCluster, missing_programs  # noqa: E402
from tests.support.launcher import Workspace  # noqa: E402

LIMIT_S = 0.5
ROUNDS = 8


def main(rounds: int) -> int:
    if missing := missing_programs():
        print(f"Not measured: {', '.join(missing)} not found (apt-get install slurm-wlm munge)")
        return 0
    with tempfile.TemporaryDirectory() as folder, SlurmCluster(nodes=1) as slurm:
        workspace = Workspace(Path(folder), _environment(slurm, Path(folder)))
        workspace.slurm_cluster()
        ours, theirs = zip(*(_round(workspace, number) for number in range(rounds + 1)), strict=True)
        slurm.cancel_all()
    submit, sbatch = min(ours[1:]), min(theirs[1:])
    print("| command | seconds |\n|---|---:|")
    print(f"| `fvlaunch submit` | {submit:.2f} |\n| `sbatch` of the same script | {sbatch:.3f} |")
    print(f"| difference (limit {LIMIT_S:g}) | {submit - sbatch:.2f} |")
    print(f"\nthe fastest of {rounds} rounds by turns, each with a new run directory and a copy of the code")
    return int(submit - sbatch > LIMIT_S)


def _environment(slurm: SlurmCluster, folder: Path) -> dict[str, str]:
    for name in ("fvlaunch", "trainers", "templates", "clusters"):
        shutil.copytree(ROOT / name, folder / "installed" / name, ignore=shutil.ignore_patterns("__pycache__"))
    others = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part and Path(part).resolve() != ROOT]
    paths = os.pathsep.join([str(folder / "installed"), *others])
    kept = {key: value for key, value in {**os.environ, **slurm.env}.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": paths}


def _round(workspace: Workspace, number: int) -> tuple[float, float]:
    """(seconds of submit, of sbatch)."""
    argv = ["submit", "tiny", "--cluster", "real", "--ranks", "1", "--name", f"run-{number}", "--begin", "now+1hour"]
    ours = _seconds([sys.executable, "-m", "fvlaunch", *argv], workspace)
    [script] = (workspace.runs / f"run-{number}" / "job").glob("*/submission.sh")
    return ours, _seconds(["sbatch", "--parsable", str(script)], workspace)


def _seconds(argv: list[str], workspace: Workspace) -> float:
    started = time.perf_counter()
    subprocess.run(argv, cwd=workspace.folder, env=workspace.env, capture_output=True, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS))
