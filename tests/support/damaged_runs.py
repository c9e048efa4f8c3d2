"""Owns what becomes of the commands when a file of a run has been damaged: runs in every state, all their files, all commands.

As a program (python -m tests.support.damaged_runs COUNT SEED FOLDER) it damages a file COUNT times, calls a command in this process
each time, and prints as JSON how many trials there were and what was wrong with any: a traceback, an exit code that no mistake of a
person may have, nothing said, a command that does not end, a state that is not the run's, a job ended or started that must not be.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support import hostile, mutations
from tests.support.hostile import GOOD, NO_RIGHTS, called
from tests.support.paths import ROOT
from tests.support.run_place import RUNS, Place

SECONDS = 10
"""No command may take longer."""
MEMORY_BYTES = 3 << 30
"""Nor need more."""
LOOKS: list[tuple[str, ...]] = [
    ("status",), ("status", "RUN"), ("status", "RUN", "--attempts"), ("status", "--all", "--json", "--attempts"), ("list", "runs"),
    ("logs", "RUN"), ("logs", "RUN", "--rank", "all", "--attempt", "all"), ("logs", "RUN", "--agent"), ("diff", "RUN", "failed"),
    ("submit", "runs/RUN/run.yaml", "--dry-run"), ("show", "runs/RUN/run.yaml"), ("status", "777"), ("status", "last"), ("status", "*"),
]  # fmt: skip
ACTS: list[tuple[str, ...]] = [("stop", "RUN"), ("cancel", "RUN"), ("resume", "RUN"), ("resume", "RUN", "--assume-dead", "7")]
OVER: list[tuple[str, ...]] = [
    ("wait", "RUN"), ("attach", "RUN"), ("verify", "RUN"), ("prune", "RUN", "--keep-last", "1", "--look"),
    ("prune", "RUN", "--keep-last", "1"), ("fork", "RUN", "--step", "10", "--name", "forked"),
]  # fmt: skip
PROGRAMS = ("verify", "prune", "fork")
"""These start a process, which takes a tenth of a second."""


class Counts:
    """What would have been done to jobs."""

    started = ended = 0


@contextlib.contextmanager
def no_jobs() -> Iterator[Counts]:
    """Count the jobs that would be started or ended on this machine, and do neither: the trials are about what is read before that."""
    from fvlaunch.errors import FvlaunchError
    from fvlaunch.schedulers.local.scheduler import Local

    counts = Counts()

    def submit(_self: Any, _job: Any) -> Any:
        counts.started += 1
        raise FvlaunchError("a job would be started here")

    def cancel(_self: Any, _job_id: str) -> None:
        counts.ended += 1

    kept = Local.submit, Local.cancel
    Local.submit, Local.cancel = submit, cancel  # type: ignore[method-assign]
    try:
        yield counts
    finally:
        Local.submit, Local.cancel = kept  # type: ignore[method-assign]


class Trials:
    """Damages one file after the other of a place, each time with one command."""

    def __init__(self, place: Place, counts: Counts) -> None:
        self._place, self._counts = place, counts
        self._before = _states()
        place.keep()

    def one(self, draw: random.Random) -> str:
        """Damage a file, call a command, put all back; return what was wrong, with how to make it again."""
        path = draw.choice(self._place.files())
        kind = draw.choice(mutations.KINDS)
        if kind == "large" and draw.random() < 0.8:
            kind = "flipped"
        run = self._run_of(path) or draw.choice([*RUNS, "chain"])
        words = self._words(run, draw)
        started, ended = self._counts.started, self._counts.ended
        number = draw.getrandbits(32)
        with mutations.damaged(path, kind, random.Random(number)):
            wrong = _wrong(words) or ("" if words[0] in ("stop", "cancel", "resume") else self._wrong_states(run))
        if self._counts.started > started and (words[0] not in ("resume", "fork") or run in ("going", "away")):
            wrong = wrong or "a job was started"
        if self._counts.ended > ended and (words[0] not in ("stop", "cancel") or run != "going"):
            wrong = wrong or "a job was ended"
        self._place.restore(run.partition("/")[0])
        return f"{path.relative_to(self._place.folder)} {kind} {number}: {' '.join(words)}\n{wrong}" if wrong else ""

    def _run_of(self, path: Path) -> str:
        inside = path.relative_to(self._place.runs).parts if path.is_relative_to(self._place.runs) else ()
        return "/".join(inside[:2]) if inside[:1] == ("chain",) and len(inside) > 2 else inside[0] if inside else ""

    def _words(self, run: str, draw: random.Random) -> tuple[str, ...]:
        over = OVER if run in ("good", "stopped", "failed") else []
        words = draw.choice([*LOOKS, *LOOKS, *ACTS, *ACTS, *over, *over])
        if words[0] in PROGRAMS and draw.random() < 0.8:
            words = draw.choice(LOOKS)
        return tuple(word.replace("RUN", run) for word in words)

    def _wrong_states(self, run: str) -> str:
        """Return what is said of any run that is not so. Of one with a damaged file, and of its pipeline, it may be said that it is broken;
        the stages of a broken pipeline need not be shown, and one whose stage before it is broken waits."""
        now, whole = _states(), run.partition("/")[0]
        for name in {*now, *self._before}:
            state, before = now.get(name), self._before.get(name)
            of_it = name in (run, whole) and state in (None, "broken")
            after_it = name.startswith(f"{whole}/") and state in (None, "queued") and "broken" in (now.get(run), now.get(whole))
            unexplained = name == run == "crashed" and state == "lost"  # where what its batch script wrote down is damaged
            if state != before and not of_it and not after_it and not unexplained:
                return f"{name} is said to be {state}, and was {before}"
        return ""


def _states() -> dict[str, str]:
    code, text = called(["status", "--all", "--json"])
    begin = text.find("[\n")
    if code not in (0, 3) or begin < 0:
        return {"": text[-1800:]}
    value, _ = json.JSONDecoder().raw_decode(text[begin:])
    return {one["run"]: one["state"] for whole in value for one in [whole, *whole.get("stages", [])]}


def _wrong(words: tuple[str, ...]) -> str:
    code, text = called(list(words))
    bad = code not in GOOD or "Traceback (most" in text or "should not have happened" in text or (code == 1 and not text.strip())
    return f"-> {code}\n{text[-1800:]}" if bad else ""


def _too_long(*_: object) -> None:
    raise TimeoutError("the command does not end")


def try_all(count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Make the place in a new folder and try; {"trials", "wrong"}."""
    from fvlaunch.status import cache, run_status

    os.chdir(folder)
    os.environ |= {"XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config"), "PATH": str(folder / "bin")}
    cache.MANY = run_status.MANY = 2  # type: ignore[misc]
    hostile.SECONDS = SECONDS  # type: ignore[misc]
    signal.signal(signal.SIGALRM, _too_long)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    place = Place(folder)
    with no_jobs() as counts:
        trials = Trials(place, counts)
        try:
            found = [trials.one(random.Random(seed * 1_000_003 + number)) for number in range(count)]
        finally:
            place.close()
    return {"trials": count, "wrong": [one for one in found if one]}


def in_a_process(count: int, seed: int, folder: Path, timeout_s: float = 3000) -> dict[str, Any]:
    """Try in a process that has no rights over others' files."""
    rights = NO_RIGHTS if os.geteuid() == 0 else []
    argv = [*rights, sys.executable, "-m", "tests.support.damaged_runs", str(count), str(seed), str(folder)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("FVLAUNCH_", "SBATCH_", "SLURM_"))}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    sys.stdout.write(json.dumps(try_all(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))))
