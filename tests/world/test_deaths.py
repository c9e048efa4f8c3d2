"""Jobs that end before their run could begin: each ends by the budget of its cause and says what it was, with a hint that is true."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.slurm.cluster import SlurmCluster
from tests.integration.slurm.cluster_files import can_limit_memory, missing_programs
from tests.support.launcher import RECIPE, Workspace, metrics
from tests.support.rows import fault, row


def told(workspace: Workspace, name: str, state: str = "failed") -> str:
    """Return the reason of a run's end, once it has ended."""

    def ended() -> dict[str, Any] | None:
        status = workspace.status(name)
        return status if status["state"] not in ("queued", "running", "requeued") else None

    status = workspace.until(ended, f"{name} is over")
    assert status["state"] == state, (status, workspace.told())
    assert "last checkpoint" not in status["reason"], "there is none"
    return str(status["reason"])


def lives(slurm: SlurmCluster, workspace: Workspace, name: str) -> int:
    """How often the run's job was started: once, and as often as it was requeued."""
    return slurm.restarts(str(workspace.status(name)["job_id"])) + 1


@row("59", "a line of setup that fails (module, source, exit 3)")
@pytest.mark.parametrize(
    ("setup", "line"),
    [
        ("export A=1\nsource /gone/bin/activate", "line 2 of setup ended with exit code 1: source /gone/bin/activate"),
        pytest.param("exit 3", "line 1 of setup ended the job with exit code 3: exit 3", marks=pytest.mark.long),
        pytest.param("module load gone && source also", "line 1 of setup ended with exit code 127: module", marks=pytest.mark.long),
        pytest.param("exec bash -l", "line 1 of setup puts another program in the place of the job", marks=pytest.mark.long),
        pytest.param("exit 0", "line 1 of setup ended the job with exit code 0: exit 0", marks=pytest.mark.long),
    ],
)
def test_a_line_of_setup_that_fails_ends_the_job_once_with_the_line_and_its_code(
    slurm: SlurmCluster, workspace: Workspace, setup: str, line: str
) -> None:
    name = "".join(filter(str.isalnum, setup))[-20:]
    workspace.slurm_cluster("bad-setup", setup=setup)
    workspace.submit(name, cluster="bad-setup")
    assert line in told(workspace, name)
    assert lives(slurm, workspace, name) == 1
    assert line in workspace.call("logs", name).stdout and line in workspace.call("wait", name, check=False).stderr
    ending = workspace.call("stop", name, check=False)
    assert ending.returncode == 1 and f"{name} is failed already" in ending.stderr
    assert line in workspace.status(name)["reason"], "what it was is still known"


@fault("34", "a python that is not there, or is no python")
@row("-", "the interpreter deleted; a bad cluster.python")
@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/gone/bin/python3", "execve(): /gone/bin/python3: No such file or directory"),
        pytest.param("/bin/true", "exit code 0 before an attempt", marks=pytest.mark.long),
    ],
)
def test_a_python_that_cannot_run_the_agents_ends_the_job_once(slurm: SlurmCluster, workspace: Workspace, python: str, words: str) -> None:
    name = Path(python).name
    workspace.slurm_cluster("no-python", python=python)
    workspace.submit(name, cluster="no-python")
    assert words in told(workspace, name).splitlines()[0]
    assert lives(slurm, workspace, name) == 1


@row("-", "--mem 900G, -x of all nodes")
@pytest.mark.parametrize("options", [("--mem", "900G"), pytest.param(("-x", "127.0.0.[11-12]"), marks=pytest.mark.long)])
def test_what_no_node_has_is_refused_in_slurms_words_and_leaves_nothing(
    slurm: SlurmCluster, workspace: Workspace, options: tuple[str, str]
) -> None:
    done = workspace.call("submit", "tiny", "--cluster", "real", "--name", "unfit", *options, check=False)
    assert done.returncode == 1 and "Requested node configuration is not available" in done.stderr
    assert not (workspace.runs / "unfit").exists()


@row("-", "--mem 900G, -x of all nodes")
def test_a_job_that_no_node_fits_any_more_is_told_in_slurms_words_and_that_it_never_ran(slurm: SlurmCluster, workspace: Workspace) -> None:
    workspace.submit("unfit-later", "--begin", "now+1hour", cluster="real")
    job = str(workspace.status("unfit-later")["job_id"])
    slurm.run("scontrol", "update", f"jobid={job}", "ExcNodeList=127.0.0.[11-12]")
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")
    workspace.until(lambda: "BadConstraints" in slurm.reason(job), "Slurm sees that no node fits")
    assert "asks for what no node has" in workspace.status("unfit-later")["reason"]
    slurm.run("scancel", job)
    assert "before an attempt was begun" in told(workspace, "unfit-later", "cancelled")


@pytest.fixture(scope="module")
def gpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace on a Slurm whose nodes have two GPUs each, as far as Slurm knows: torch sees none."""
    if missing := missing_programs():
        pytest.skip(f"no Slurm here: {', '.join(missing)} not found")
    with SlurmCluster(nodes=2, gpus=2) as slurm:
        made = Workspace(tmp_path_factory.mktemp("gpus"), {**os.environ, **slurm.env})
        options = {"partition": "low", "gpus-per-node": 2, "cpus-per-task": 1, "mem": "1000", "time": "00:10:00"}
        for name, changes in (("gpu", {}), ("cpu", {"device": "cpu"})):
            made.slurm_cluster(name, ranks_per_node=None, slurm=options, **changes)
        yield made
        slurm.cancel_all()


@row("-", "GPUs asked for, torch sees none")
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_gpus_that_torch_cannot_use_end_the_run_at_the_first_look_and_nothing_is_trained_on_the_cpu(gpus: Workspace) -> None:
    gpus.submit("no-cuda", cluster="gpu")
    reason = told(gpus, "no-cuda")
    assert "2 GPUs were given to this node's ranks" in reason and "on 127.0.0.1" in reason and "device: cpu" in reason
    assert gpus.status("no-cuda")["attempts"] == 1 and not metrics(gpus.runs / "no-cuda")


@row("-", "GPUs asked for, torch sees none")
@pytest.mark.long
def test_device_cpu_is_a_persons_word_for_the_cpu(gpus: Workspace) -> None:
    gpus.submit("meant", "--set", "train.max_steps=2", cluster="cpu")
    assert gpus.finish("meant")["state"] == "finished", gpus.told()


NEXT_TIME = """
import os
import torch
from trainers.distributed import devices
from trainers.methods.finetune import FineTuneMethod

if os.environ["TRAINER_ATTEMPT"] == "1":
    torch.version.cuda = "13.0"  # as where a driver is broken: a build for GPUs, and none is seen
else:
    devices.choose = lambda: torch.device("cpu")


class Finetune(FineTuneMethod):
    def __init__(self, cfg, role_models):
        known = {"weighting_scheme": "uniform", "precondition_outputs": False}
        super().__init__(cfg.model_copy(update={"method": cfg.method.model_copy(update=known)}), role_models)
"""


@row("-", "GPUs asked for, torch sees none")
@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="torch sees a GPU here")
def test_the_next_attempt_stays_away_from_a_node_without_its_gpus(gpus: Workspace) -> None:
    gpus.write("next_time.py", NEXT_TIME)
    gpus.write("templates/recipes/next-time.yaml", {**RECIPE, "train": {**RECIPE["train"], "method": {"kind": "./next_time.py:Finetune"}}})
    gpus.submit("broken", "--set", "train.max_steps=2", recipe="next-time", cluster="gpu")
    assert gpus.finish("broken")["state"] == "finished", gpus.told()
    first, second = gpus.attempts("broken")
    assert (first["cause"], second["cause"]) == ("no_gpu", "finished")
    assert first["nodes"] == first["excluded"] != second["nodes"]


@fault("35", "--mem 60M, a control group of version 1")
@row("-", "--mem 60M: the agent itself killed by its cgroup")
@pytest.mark.long
@pytest.mark.skipif(bool(missing_programs()) or not can_limit_memory(), reason="needs Slurm, and control groups that may be made")
def test_an_agent_that_its_cgroup_kills_ends_the_run_by_the_budget_of_memory(tmp_path: Path) -> None:
    with SlurmCluster(nodes=1, memory_limits=True) as slurm:
        workspace = Workspace(tmp_path, {**os.environ, **slurm.env})
        workspace.slurm_cluster("small", slurm={"partition": "low", "cpus-per-task": 1, "mem": "60M", "time": "00:10:00"})
        workspace.submit("small", "--ranks", "1", cluster="small")
        reason = told(workspace, "small")
        assert "ran out of memory 2 times (limits.out_of_memory: 1)" in reason and "Out Of Memory" in reason
        assert lives(slurm, workspace, "small") == 2
        assert [attempt["cause"] for attempt in workspace.attempts("small")] in ([], ["out_of_memory"], ["out_of_memory"] * 2)
