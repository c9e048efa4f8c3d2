"""Run as a program: starts the jobs of the toy scheduler's queue once a file `open` lies in it, and notes how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def main(queue: Path) -> None:
    running: dict[Path, subprocess.Popen[bytes]] = {}
    while True:
        for path in queue.glob("*.json"):
            job = json.loads(path.read_text())
            if path in running and (code := running[path].poll()) is not None:
                del running[path]
                note(path, {**job, "state": "done" if code == 0 else "failed"})
            elif job["state"] == "waiting" and (queue / "open").exists():
                running[path] = start(job)
                note(path, {**job, "state": "running", "pid": running[path].pid})
        time.sleep(0.05)


def start(job: dict[str, Any]) -> subprocess.Popen[bytes]:
    with (Path(job["folder"]) / "toy_log.out").open("ab") as log:
        return subprocess.Popen(
            job["argv"], env={**os.environ, **job["env"]}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=job["folder"]
        )


def note(path: Path, job: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(job))
    part.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
