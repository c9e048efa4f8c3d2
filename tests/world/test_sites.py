"""What sites and shells do to a submission: narrow environments, GPUs in many forms, holds, other clusters, dead daemons."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.integration.slurm import accounting
from tests.integration.slurm.cluster import SlurmCluster, missing_programs
from tests.integration.slurm.stubs import Quick, sleeping, sleeping_profile
from tests.support.launcher import RECIPE, Workspace
from tests.support.rows import row
from trainers.models.loading.tiny_wan import build

SHORT = "PartitionName=short Nodes=127.0.0.11 MaxTime=5 State=UP"
PROFILE = {"partition": "low", "cpus-per-task": 1, "mem": "1000", "time": "00:10:00"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """One node with two GPUs whose Prolog fails while a file `broken` lies beside it."""
    if missing := missing_programs():
        pytest.skip(f"NOT TESTED HERE: {', '.join(missing)} not found")
    prolog = tmp_path_factory.mktemp("prolog") / "prolog"
    prolog.write_text(f"#!/bin/sh\n[ ! -e {prolog.parent}/broken ]\n")
    prolog.chmod(0o755)
    with SlurmCluster(nodes=1, gpus=2, kill_wait_s=2, quick_requeue=False, extra=[f"Prolog={prolog}", SHORT]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def broken(site: SlurmCluster) -> Path:
    """The file that makes the site's Prolog fail while it is there."""
    shown = site.run("scontrol", "show", "config").stdout
    return Path(next(line.split("=")[1].strip() for line in shown.splitlines() if line.startswith("Prolog  "))).with_name("broken")


@pytest.fixture(scope="module")
def runs(site: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    made = Quick(tmp_path_factory.mktemp("sites"), {**os.environ, **site.env})
    made.write("templates/recipes/short.yaml", {**RECIPE, "train": {**RECIPE["train"], "max_steps": 2}})
    sleeping_profile(made)
    made.slurm_cluster("plain", slurm=PROFILE)
    yield made
    site.cancel_all()


def _with(runs: Workspace, **variables: str) -> Workspace:
    """The same folder in a shell with these variables; its commands are processes of their own."""
    shell = Workspace(runs.folder, runs.env)
    shell.env |= variables
    return shell


# --- the environment


@row("47", "SBATCH_EXPORT=NONE")
def test_a_job_that_gets_nothing_of_the_shell_runs(runs: Workspace) -> None:
    shell = _with(runs, SBATCH_EXPORT="NONE")
    said = shell.call("submit", "short", "--cluster", "plain", "--ranks", "1", "--name", "bare", "--wait").stderr
    assert "note: SBATCH_EXPORT=NONE in the shell is used as export" in said and runs.status("bare")["state"] == "finished"


@row("47", "export: NONE, NIL, ALL,X=y, a list of names")
@pytest.mark.long
@pytest.mark.parametrize("export", ["NONE", "NIL", "ALL,X=y", "X=y", "HOME,LANG"])
def test_every_form_of_export_runs(runs: Workspace, export: str) -> None:
    name = "export-" + "".join(filter(str.isalnum, export))
    runs.slurm_cluster("narrow", slurm={**PROFILE, "export": export})
    runs.call("submit", "short", "--cluster", "narrow", "--ranks", "1", "--name", name, "--wait")
    assert runs.status(name)["state"] == "finished"


# --- GPUs

FORMS = (
    {"gres": "gpu:2"}, {"gres": "gpu:2080ti:2"}, {"gres": "shard:1,gpu:1g.10gb:2"}, {"gpus-per-node": "2080ti:2"},
    {"gpus-per-node": "nvidia_h100_80gb_hbm3:2"}, {"gpus": 2}, {"gpus": "rtx_a6000:2"}, {"gpus-per-task": 2},
    {"gpus-per-socket": 1, "sockets-per-node": 2},
)  # fmt: skip


@row("51", "gres: gpu:2080ti:2, gpus: 2, gpus-per-task: 2 and the like in the profile")
@pytest.mark.parametrize("gpus", FORMS, ids=str)
def test_two_gpus_in_any_form_are_two_ranks(runs: Workspace, gpus: dict[str, Any]) -> None:
    runs.slurm_cluster("gpus", slurm={**PROFILE, **gpus}, ranks_per_node=None)
    done = runs.call("submit", "tiny", "--cluster", "gpus", "--nodes", "1", "--dry-run", check=False)
    assert "2 ranks = 1 node x 2" in done.stderr
    assert "ntasks-per-node=1\n" in done.stdout and "nodes=1\n" in done.stdout


@row("51", "gpus-per-task: 2, really submitted")
def test_as_many_gpus_are_held_as_ranks_run(site: SlurmCluster, runs: Workspace) -> None:
    sleeping_profile(runs, "pair", **{"gpus-per-task": 2})
    runs.slurm_cluster("pair", python=str(runs.folder / "agent.sh"), slurm={**PROFILE, "gpus-per-task": 2}, ranks_per_node=None)
    run = runs.submit("pair", "--nodes", "1", "--no-snapshot", cluster="pair")
    (run / "behave").write_text("")
    assert json.loads((run / "run.json").read_text())["ranks"] == 2
    job = str(json.loads((run / "run.json").read_text())["job_id"])
    site.wait_state(job, "RUNNING")
    assert "gpu:2" in site.run("squeue", "-h", "-j", job, "-O", "tres-per-task:40").stdout
    runs.call("cancel", "pair")


@row("52", "-- --gres=gpu:2, -- --gres gpu:2, -- -G 2")
@pytest.mark.parametrize("words", [("--gres=gpu:2",), ("--gres", "gpu:2"), ("-G", "2"), ("-G2",), ("--gpus-per-n", "2")], ids=" ".join)
def test_gpus_asked_for_after_the_dashes_are_counted(runs: Workspace, words: tuple[str, ...]) -> None:
    runs.slurm_cluster("bare", slurm=PROFILE, ranks_per_node=None)
    two = runs.call("submit", "tiny", "--cluster", "bare", "--ranks", "2", "--dry-run", "--", *words, check=False)
    assert "2 ranks = 1 node x 2" in two.stderr
    one = runs.call("submit", "tiny", "--cluster", "bare", "--ranks", "1", "--dry-run", "--", *words, check=False)
    assert one.returncode == 1 and "asks for 2 GPUs of a node, and 1 rank would use one each" in one.stderr and "--ranks 2" in one.stderr


# --- holds


def _waiting(runs: Workspace, name: str) -> str:
    """The first line that `wait` says of a run; it is then left alone."""
    command = [sys.executable, "-m", "fvlaunch", "wait", name]
    with subprocess.Popen(command, cwd=runs.folder, env=runs.env, stderr=subprocess.PIPE, text=True) as waiting:
        assert waiting.stderr is not None
        said = waiting.stderr.readline()
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(60) == 130
    return said


@row("56", "a failing Prolog: launch failed requeued held")
def test_a_job_that_its_prolog_put_on_hold_is_told_with_its_release(site: SlurmCluster, runs: Workspace, broken: Path) -> None:
    broken.touch()
    try:
        job = sleeping(runs, "prolog")
        runs.until(lambda: "held" in site.reason(job), "Slurm holds the job")
    finally:
        broken.unlink()
        site.node_up(site.nodes[0])
    seen = runs.status("prolog")
    assert (seen["state"], seen["blocked"]) == ("requeued", "held")
    assert "could not be launched on its node and is held" in seen["reason"] and f"`scontrol release {job}`" in seen["reason"]
    assert f"`scontrol release {job}`" in _waiting(runs, "prolog")
    runs.call("cancel", "prolog")


@row("56", "scontrol requeuehold, also State=SpecialExit")
@pytest.mark.parametrize("state", [(), ("State=SpecialExit",)], ids=["plain", "special exit"])
def test_a_requeued_job_on_hold_is_told_with_its_release(site: SlurmCluster, runs: Workspace, state: tuple[str, ...]) -> None:
    name = "special" if state else "requeued"
    job = sleeping(runs, name)
    site.wait_state(job, "RUNNING")
    site.run("scontrol", "requeuehold", *state, job)
    site.wait_state(job, "SPECIAL_EXIT" if state else "PENDING")
    seen = runs.status(name)
    assert (seen["state"], seen["blocked"]) == ("requeued", "held")
    assert f"job {job} was requeued and is held; `scontrol release {job}`" in seen["reason"]
    runs.call("cancel", name)


@row("56", "more time than the partition allows")
def test_wait_ends_where_a_job_can_never_start(site: SlurmCluster, runs: Workspace) -> None:
    job = sleeping(runs, "toolong", "-p", "short", "-t", "60")
    runs.until(lambda: site.reason(job) == "PartitionTimeLimit", "Slurm has looked at the job")
    done = runs.call("wait", "toolong", check=False)
    assert done.returncode == 1 and "fvlaunch cancel toolong" in done.stderr
    assert "asks for more time than its partition allows" in done.stderr
    assert runs.status("toolong")["blocked"] == "never"
    runs.call("cancel", "toolong")


# --- shells and daemons


@row("58", "SLURM_CLUSTERS, SBATCH_CLUSTERS, -M, clusters in the profile")
def test_another_cluster_is_refused(site: SlurmCluster, runs: Workspace) -> None:
    for variable in ("SLURM_CLUSTERS", "SBATCH_CLUSTERS"):
        done = _with(runs, **{variable: "gpu2"}).call("submit", "tiny", "--cluster", "plain", check=False)
        assert done.returncode == 1 and f"{variable}=gpu2 in the shell names another Slurm cluster" in done.stderr
    here = _with(runs, SLURM_CLUSTERS="test").call("submit", "tiny", "--cluster", "plain", "--dry-run", check=False)
    assert "another Slurm cluster" not in here.stderr
    assert "clusters is not taken" in runs.call("submit", "tiny", "--cluster", "plain", "--", "-M", "gpu2", check=False).stderr
    assert site.jobs() == []


@row("-", "SBATCH_PARTITION in the shell beats the profile")
def test_what_the_shell_changes_is_told(runs: Workspace) -> None:
    quick = Quick(runs.folder, {**runs.env, "SBATCH_PARTITION": "high", "SBATCH_OUTPUT": "x"})
    done = quick.call("submit", "tiny", "--cluster", "plain", "--dry-run", check=False)
    assert "note: SBATCH_PARTITION=high in the shell is used instead of cluster.slurm.partition: low (clusters/plain.yaml:" in done.stderr
    assert "note: SBATCH_OUTPUT=x in the shell is ignored: logs are kept in the run directory" in done.stderr
    assert "--partition=high" in done.stdout


@row("-", "SBATCH_PARTITION in the shell of a sample that runs as a job; SLURM_CLUSTERS there")
def test_a_tool_that_runs_as_a_job_is_told_of_the_shell_too(runs: Workspace) -> None:
    runs.write("exported/model_index.json", {})
    sample = ("sample", "exported", "--prompt", "x", "--cluster", "plain")
    elsewhere = Quick(runs.folder, {**runs.env, "SLURM_CLUSTERS": "gpu2"}).call(*sample, check=False)
    assert elsewhere.returncode == 1 and "SLURM_CLUSTERS=gpu2 in the shell names another Slurm cluster" in elsewhere.stderr
    refused = Quick(runs.folder, {**runs.env, "SBATCH_PARTITION": "absent"}).call(*sample, check=False)
    assert "note: SBATCH_PARTITION=absent in the shell is used instead of cluster.slurm.partition: low" in refused.stderr
    assert refused.returncode == 1 and "invalid partition specified: absent" in refused.stderr


@row("-", "GPUs asked for, torch sees none")
@pytest.mark.long
@pytest.mark.skipif(torch.cuda.is_available(), reason="for a machine without a GPU")
def test_a_sample_that_runs_as_a_job_never_takes_the_cpu_where_it_was_given_a_gpu(runs: Workspace) -> None:
    build(runs.folder / "wan")
    small = ("--steps", "1", "--num-frames", "5", "--height", "32", "--width", "32")
    runs.slurm_cluster("one", slurm={**PROFILE, "gpus-per-node": 2}, ranks_per_node=None)
    done = runs.call("sample", "wan", "--prompt", "x", *small, "--to", "gpu.mp4", "--cluster", "one", check=False)
    assert done.returncode == 1 and "1 GPU was given to this node's ranks" in done.stderr and "Traceback" not in done.stderr, done.stderr
    done = runs.call("sample", "wan", "--prompt", "x", *small, "--to", "cpu.mp4", "--cluster", "plain", check=False)
    assert done.returncode == 0 and "asks for no GPU" in done.stderr and "this runs on the CPU" in done.stderr, done.stderr
    assert (runs.folder / "cpu.mp4").is_file() and not (runs.folder / "gpu.mp4").exists()


@row("-", "munge down")
def test_without_munge_all_that_slurm_says_is_told_the_cause_first(site: SlurmCluster, runs: Workspace) -> None:
    sleeping(runs, "unproved", "--begin", "now+1hour")
    site.stop_munge()
    try:
        done = runs.call("status", "unproved", check=False)
    finally:
        site.start_munge()
    assert done.returncode == 3
    assert "(squeue: Munge encode failed: Failed to access" in done.stderr and "Protocol authentication error" in done.stderr
    assert "hint: munged does not run on this machine" in done.stderr
    runs.call("cancel", "unproved")


@row("-", "slurmdbd dead")
@pytest.mark.long
def test_doctor_warns_of_accounts_that_give_no_answer(tmp_path: Path) -> None:
    if missing := [*missing_programs(), *accounting.missing_programs()]:
        pytest.skip(f"NOT TESTED HERE: {', '.join(missing)} not found")
    with SlurmCluster(nodes=1, accounting=True) as cluster:
        runs = Quick(tmp_path, {**os.environ, **cluster.env})
        runs.slurm_cluster()
        verdicts = []
        for stop in (False, True):
            if stop:
                cluster.stop_dbd()
            done = runs.call("doctor", "--cluster", "real", "--no-node", "--json", check=False)
            verdicts += [(one["verdict"], one["found"]) for one in json.loads(done.stdout) if one["check"] == "accounting"]
    assert verdicts[0] == ("OK", "accounting_storage/slurmdbd")
    assert verdicts[1][0] == "WARN" and "gives no answer: sacct: " in verdicts[1][1] and "Connection refused" in verdicts[1][1]
