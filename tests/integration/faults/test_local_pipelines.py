"""A pipeline on this machine through the command line: it breaks, is mended, loses the process that drives it, and is cancelled.

Each test has a pipeline of its own, but for those that look at one that nothing disturbed.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launcher import Workspace, agent_pids, metrics, rank_pids
from tests.support.pipelines import Chain


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")}
    return Chain(Workspace(tmp_path_factory.mktemp("pipelines"), environment))


@pytest.fixture
def chain(shared: Chain) -> Iterator[Chain]:
    yield shared
    shared.refuse.unlink(missing_ok=True)


@pytest.fixture(scope="module")
def finished(shared: Chain) -> Chain:
    """With a pipeline called `whole` that nothing disturbed, to look at."""
    submit(shared, "whole")
    shared.first("whole").open()
    assert shared.workspace.call("wait", "whole").returncode == 0
    assert shared.states("whole") == ("finished", "finished", "finished")
    return shared


def submit(chain: Chain, name: str, *more: str) -> None:
    chain.workspace.call("submit", "chain", "--cluster", "here", "--name", name, *more)


def test_a_stage_that_fails_never_feeds_the_next_and_resume_goes_on_from_it(chain: Chain) -> None:
    chain.refuse.touch()
    done = chain.workspace.call("submit", "chain", "--cluster", "here", "--name", "broken", "--wait", check=False)
    assert done.returncode == 1, done.stderr
    assert "the gate is shut" in done.stderr and "fvlaunch resume broken" in done.stderr
    assert chain.states("broken") == ("failed", "failed", "cancelled")
    [whole] = json.loads(chain.workspace.call("status", "broken", "--json").stdout)
    assert whole["reason"].startswith("stage 1 of 2, first: ") and whole["stages"][1]["reason"] == "never started: broken/first is failed"
    assert chain.record("broken", "second")["job_ids"] == []
    assert chain.workspace.call("wait", "broken", check=False).returncode == 1
    chain.refuse.unlink()
    told = chain.workspace.call("resume", "broken").stderr
    assert "broken/first: goes on from the start" in told
    chain.first("broken").reach(2, attempt=2)
    refused = chain.workspace.call("resume", "broken", check=False)
    assert refused.returncode == 1 and "broken is not over" in refused.stderr
    chain.first("broken").open()
    assert chain.workspace.call("wait", "broken").returncode == 0
    assert chain.states("broken") == ("finished", "finished", "finished")


@pytest.mark.long
def test_without_the_process_that_drives_it_the_stage_goes_on_and_the_next_waits_for_resume(chain: Chain) -> None:
    submit(chain, "undriven")
    chain.first("undriven").reach(2)
    driver = json.loads((chain.workspace.runs / "undriven/pipeline.json").read_text())["driver"]
    os.kill(int(re.fullmatch(r"local-(\d+)-\d+", driver)[1]), signal.SIGKILL)  # type: ignore[index]
    chain.workspace.until(lambda: chain.states("undriven") == ("running", "running", "lost"), "the driver is known to be gone")
    chain.first("undriven").open()
    assert chain.workspace.call("wait", "undriven/first").returncode == 0
    assert chain.states("undriven") == ("lost", "finished", "lost")
    jobs = chain.record("undriven", "first")["job_ids"]
    chain.workspace.call("resume", "undriven", "--wait")
    assert chain.states("undriven") == ("finished", "finished", "finished")
    assert chain.record("undriven", "first")["job_ids"] == jobs and len(jobs) == 1
    assert [line["step"] for line in metrics(chain.path("undriven", "second"))] == [1, 2, 3, 4]


def test_the_second_stage_started_from_what_the_first_became(finished: Chain) -> None:
    facts = finished.started_from("whole")
    assert (facts["step"], facts["weights"]) == (12, "ema")
    config = json.loads((finished.path("whole", "second") / "attempts/0001.config.json").read_text())
    assert Path(config["train"]["models"]["student"]["init_from"]) == (finished.path("whole", "first") / "export-ema").resolve()
    assert not list(finished.path("whole", "first").glob(".export*"))


def test_a_stage_is_a_run_with_logs_and_the_pipeline_is_one_line(finished: Chain) -> None:
    call = finished.workspace.call
    assert "step 12, ema weights of student" in call("logs", "whole/second").stdout
    refused = call("logs", "whole", check=False)
    assert refused.returncode == 1 and "name a stage of it: whole/first, whole/second" in refused.stderr
    assert [name for name in (line.split()[0] for line in call("status").stdout.splitlines()) if name.startswith("whole")] == ["whole"]
    assert [line.split()[:2] for line in call("status", "whole").stdout.splitlines()[1:4]] == [
        [name, "finished"] for name in ("whole", "whole/first", "whole/second")
    ]
    assert call("resume", "whole", check=False).stderr.startswith("error: whole is finished")


def test_cancel_ends_the_stage_that_runs_and_those_after_it(chain: Chain) -> None:
    submit(chain, "unwanted")
    told = chain.workspace.call("cancel", "unwanted").stderr
    assert "unwanted/second: cancelled; its turn had not come" in told
    assert chain.workspace.call("wait", "unwanted", check=False).returncode == 1
    assert chain.states("unwanted") == ("cancelled", "cancelled", "cancelled")
    again = chain.workspace.call("cancel", "unwanted", check=False)
    assert again.returncode == 1 and "unwanted is cancelled already" in again.stderr


@pytest.mark.long
def test_an_export_that_is_killed_is_made_again_whole(chain: Chain) -> None:
    """Of two ranks one exports and one waits; first the rank that exports is killed, then the agent."""
    workspace, second = chain.workspace, chain.path("killed", "second")
    submit(chain, "killed", "--set", "second.resources.ranks=2")
    chain.first("killed").open()
    first_try = frozen_export(workspace, set())
    os.kill(rank_pids(second)[0], signal.SIGKILL)
    frozen_export(workspace, first_try)
    for pid in set(agent_pids(second).values()):
        os.kill(pid, signal.SIGKILL)
    workspace.until(lambda: not exports(workspace), "nothing outlives the agent")
    assert workspace.call("wait", "killed", check=False).returncode == 1
    assert not (chain.path("killed", "first") / "export-ema").exists()
    workspace.call("resume", "killed", "--wait")
    assert chain.states("killed") == ("finished", "finished", "finished")
    assert [a["cause"] for a in workspace.attempts("killed/second")] == ["crash", "interrupted", "finished"]
    assert not list(chain.path("killed", "first").glob(".export*"))


def frozen_export(workspace: Workspace, before: set[int]) -> set[int]:
    """Wait for another process that exports than those before, and stop it where it is: it must not end while the test acts."""
    found: set[int] = workspace.until(lambda: exports(workspace) - before, "the weights are being exported")
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    return found


def exports(workspace: Workspace) -> set[int]:
    """Processes that export weights of a run of this workspace."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            argv = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"trainers.export" in argv and str(workspace.runs).encode() in argv:
            found.add(int(entry.name))
    return found
