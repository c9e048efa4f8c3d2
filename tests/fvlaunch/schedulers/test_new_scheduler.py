"""A scheduler that the launcher has never heard of is a sub-folder: found by its name, used from submit to cancel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fvlaunch.errors import FvlaunchError
from fvlaunch.schedulers import registry
from tests.support.launcher import Workspace
from tests.support.source_copy import checkout, environment

TOY = Path(__file__).with_name("toy")


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace whose code has the toy scheduler in it, and whose queue somebody works off."""
    source, queue = checkout(tmp_path / "source", git=False), tmp_path / "queue"
    shutil.copytree(TOY, source / "fvlaunch/schedulers/toy", ignore=shutil.ignore_patterns("runner.py", "__pycache__"))
    queue.mkdir()
    made = Workspace(tmp_path / "work", {**environment(source, dict(os.environ)), "TOY_QUEUE": str(queue)})
    made.write("clusters/toys.yaml", {"executor": "toy", "paths": {"data": "data"}})
    runner = subprocess.Popen([sys.executable, str(TOY / "runner.py"), str(queue)], env=made.env)
    yield made
    for path in made.runs.glob("*"):
        made.call("cancel", path.name, check=False)
        made.call("wait", path.name, check=False)
    runner.kill()
    runner.wait()


def test_a_new_schedulers_jobs_are_submitted_watched_and_cancelled_by_the_launcher_as_it_is(toys: Workspace) -> None:
    run = toys.submit("held", "--ranks", "1", "--set", "train.max_steps=100000", cluster="toys")
    found = toys.status("held")
    assert (found["state"], found["reason"]) == ("queued", "is waiting") and found["job_id"].startswith("toy-")
    toys.submit("second", "--ranks", "1", cluster="toys")
    assert "had not started" in toys.call("cancel", "second").stderr
    assert toys.status("second")["state"] == "cancelled"
    (Path(toys.env["TOY_QUEUE"]) / "open").touch()
    toys.reaches("held", 1)
    assert toys.status("held")["state"] == "running"
    assert "ends now" in toys.call("cancel", "held").stderr
    found = toys.finish("held")
    assert (found["state"], found["attempts"]) == ("cancelled", 1) and (run / "run.json").is_file()


def test_where_a_scheduler_cannot_be_used_nothing_is_left_behind(toys: Workspace) -> None:
    del toys.env["TOY_QUEUE"]
    done = toys.call("submit", "tiny", "--cluster", "toys", "--name", "none", check=False)
    assert done.returncode == 1 and "is a toy cluster, but TOY_QUEUE is not set" in done.stderr
    assert not toys.runs.exists() or not list(toys.runs.iterdir())
    toys.write("clusters/odd.yaml", {"executor": "tory", "paths": {"data": "data"}})
    done = toys.call("submit", "tiny", "--cluster", "odd", "--name", "none", check=False)
    assert done.returncode == 1 and "must be 'local' or 'slurm' or 'toy', not 'tory'" in done.stderr


def test_a_name_that_nobody_has_is_told_with_those_that_there_are() -> None:
    assert registry.names() == ("local", "slurm")
    with pytest.raises(FvlaunchError, match="there is no scheduler 'pbs'") as caught:
        registry.scheduler("pbs")
    assert caught.value.hint == "known: local, slurm"
