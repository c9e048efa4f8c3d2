"""A pipeline on this machine through the command line: it breaks, is mended, loses the process that drives it, and is cancelled.

The tests of one pipeline are in the order in which it lives.
"""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.support.launcher import Workspace, agent_pids, metrics, rank_pids
from tests.support.pipelines import Chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "OMP_NUM_THREADS")}
    return Chain(Workspace(tmp_path_factory.mktemp("pipelines"), environment))


def test_a_stage_that_fails_never_feeds_the_next(chain: Chain) -> None:
    chain.gate.touch()
    done = chain.workspace.call("submit", "chain", "--cluster", "here", "--name", "broken", "--wait", check=False)
    assert done.returncode == 1, done.stderr
    assert "the gate is shut" in done.stderr and "fvlaunch resume broken" in done.stderr
    assert chain.states("broken") == ("failed", "failed", "cancelled")
    [whole] = json.loads(chain.workspace.call("status", "broken", "--json").stdout)
    assert whole["reason"].startswith("stage 1 of 2, first: ") and whole["stages"][1]["reason"] == "never started: broken/first is failed"
    assert chain.record("broken", "second")["job_ids"] == []
    assert chain.workspace.call("wait", "broken", check=False).returncode == 1


def test_resume_goes_on_from_the_stage_that_broke(chain: Chain) -> None:
    chain.gate.unlink()
    told = chain.workspace.call("resume", "broken").stderr
    assert "broken/first: goes on from the start" in told
    chain.workspace.reaches("broken/first", 2)
    refused = chain.workspace.call("resume", "broken", check=False)
    assert refused.returncode == 1 and "broken is not over" in refused.stderr


def test_without_the_process_that_drives_it_the_stage_goes_on_and_the_next_waits_for_resume(chain: Chain) -> None:
    driver = json.loads((chain.workspace.runs / "broken/pipeline.json").read_text())["driver"]
    os.kill(int(re.fullmatch(r"local-(\d+)-\d+", driver)[1]), signal.SIGKILL)  # type: ignore[index]
    assert chain.states("broken") == ("running", "running", "lost")
    assert chain.workspace.call("wait", "broken/first").returncode == 0
    assert chain.states("broken") == ("lost", "finished", "lost")
    jobs = chain.record("broken", "first")["job_ids"]
    chain.workspace.call("resume", "broken", "--wait")
    assert chain.states("broken") == ("finished", "finished", "finished")
    assert chain.record("broken", "first")["job_ids"] == jobs and len(jobs) == 2
    assert [line["step"] for line in metrics(chain.path("broken", "second"))] == [1, 2, 3, 4]


def test_the_second_stage_started_from_what_the_first_became(chain: Chain) -> None:
    facts = chain.started_from("broken")
    assert (facts["step"], facts["weights"]) == (12, "ema")
    config = json.loads((chain.path("broken", "second") / "attempts/0001.config.json").read_text())
    assert Path(config["train"]["models"]["student"]["init_from"]) == (chain.path("broken", "first") / "export-ema").resolve()
    assert not list(chain.path("broken", "first").glob(".export*"))


def test_a_stage_is_a_run_with_logs_and_the_pipeline_is_one_line(chain: Chain) -> None:
    assert "step 12, ema weights of student" in chain.workspace.call("logs", "broken/second").stdout
    refused = chain.workspace.call("logs", "broken", check=False)
    assert refused.returncode == 1 and "name a stage of it: broken/first, broken/second" in refused.stderr
    lines = chain.workspace.call("status").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["RUN", "broken"]
    assert [line.split()[:2] for line in chain.workspace.call("status", "broken").stdout.splitlines()[1:4]] == [
        [name, "finished"] for name in ("broken", "broken/first", "broken/second")
    ]
    assert chain.workspace.call("resume", "broken", check=False).stderr.startswith("error: broken is finished")


def test_cancel_ends_the_stage_that_runs_and_those_after_it(chain: Chain) -> None:
    chain.workspace.call("submit", "chain", "--cluster", "here", "--name", "unwanted")
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
    chain.gate.unlink(missing_ok=True)
    workspace.call("submit", "chain", "--cluster", "here", "--name", "killed", "--set", "second.resources.ranks=2")
    first_try = workspace.until(lambda: exports(workspace), "the weights are being exported")
    os.kill(rank_pids(second)[0], signal.SIGKILL)
    workspace.until(lambda: exports(workspace) - first_try, "they are being exported again")
    for pid in set(agent_pids(second).values()):
        os.kill(pid, signal.SIGKILL)
    workspace.until(lambda: not exports(workspace), "nothing outlives the agent")
    assert workspace.call("wait", "killed", check=False).returncode == 1
    assert not (chain.path("killed", "first") / "export-ema").exists()
    workspace.call("resume", "killed", "--wait")
    assert chain.states("killed") == ("finished", "finished", "finished")
    assert [a["cause"] for a in workspace.attempts("killed/second")] == ["crash", "interrupted", "finished"]
    assert not list(chain.path("killed", "first").glob(".export*"))


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
