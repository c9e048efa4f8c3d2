"""The arithmetic of a submission: ranks and nodes, batch, options, time, threads, and the data's first check."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError, Problem
from fvlaunch.planning.plan import Plan, make_plan

NOW = datetime(2026, 1, 2, 3, 4, 5)
CLUSTER = """\
executor: slurm
runs_dir: runs
paths: {data: data}
slurm: {partition: main, gpus-per-node: 8, cpus-per-task: 64, time: "24:00:00"}
env: {NCCL_DEBUG: WARN}
secrets: [HF_TOKEN]
srun_args: [--mpi=none]
setup: module load x
"""
Make = Callable[..., Plan]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "clusters").mkdir()

    def plan(
        cluster: str | None = CLUSTER, sets: tuple[str, ...] = (), shell_environment: dict[str, str] | None = None, **given: Any
    ) -> Plan:
        if cluster is not None:
            (tmp_path / "clusters/lab.yaml").write_text(cluster)
        composed = compose("shapes-finetune", "lab" if cluster is not None else "local", sets=sets, cwd=tmp_path)
        return make_plan(composed, shell=shell_environment, **{"now": NOW, "cwd": tmp_path, "cores_per_node": 6, **given})

    return plan


def _problems(make: Make, *args: Any, **given: Any) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        make(*args, **given)
    return list(caught.value.problems)


def test_a_plan_says_all_that_a_submission_needs(make: Make, tmp_path: Path) -> None:
    plan = make(ranks=16)
    assert (plan.name, plan.path) == ("shapes-finetune-20260102-030405", tmp_path / "runs/shapes-finetune-20260102-030405")
    assert (plan.ranks, plan.nodes, plan.ranks_per_node, plan.micro_batch_size, plan.accumulation) == (16, 2, 8, 4, 1)
    assert plan.summary == "16 ranks = 2 nodes x 8, accumulation 1"
    assert plan.sbatch == {"partition": "main", "gpus-per-node": 8, "cpus-per-task": 64, "time": "1-00:00:00"}
    assert (plan.time_s, plan.threads_per_rank, plan.max_steps, plan.executor) == (86400, 8, 400, "slurm")
    assert (plan.env, plan.secrets, plan.srun_args, plan.setup) == ({"NCCL_DEBUG": "WARN"}, ("HF_TOKEN",), ("--mpi=none",), "module load x")
    assert plan.limits.crashes == 3 and plan.python is None


def test_run_yaml_holds_what_was_decided_and_repeats_it(make: Make, tmp_path: Path) -> None:
    plan = make(ranks=16, sbatch={"partition": "fast", "dependency": "afterok:7", "container-image": "x", "begin": "now+1hour"})
    assert plan.recipe["resources"] == {"ranks": 16, "time": "00:30:00", "threads_per_rank": 8}
    assert plan.recipe["train"]["data"]["micro_batch_size"] == 4
    assert plan.cluster["slurm"] == {"partition": "fast", "gpus-per-node": 8, "cpus-per-task": 64, "time": "1-00:00:00"}
    assert plan.sbatch["dependency"] == "afterok:7" and plan.sbatch["container-image"] == "x"
    (tmp_path / "run.yaml").write_text(json.dumps({"recipe": plan.recipe, "cluster": plan.cluster, "lock": {}}))
    again = make_plan(compose("run.yaml", cwd=tmp_path), now=NOW, cwd=tmp_path, cores_per_node=99)
    assert (again.recipe, again.cluster, again.nodes) == (plan.recipe, plan.cluster, 2)


def test_origins_say_what_the_command_line_gave_and_what_was_computed(make: Make) -> None:
    plan = make(ranks=8, sbatch={"partition": "fast"}, shell_environment={"SBATCH_ACCOUNT": "a"}, sets=("resources.threads_per_rank=2",))
    assert plan.origins[("resources", "ranks")] == plan.origins[("sbatch", "partition")] == "command line"
    assert plan.origins[("sbatch", "account")] == "the shell's SBATCH_* variables"
    assert plan.origins[("train", "data", "micro_batch_size")] == "computed"
    assert plan.origins[("resources", "threads_per_rank")] == "--set"
    assert plan.origins[("sbatch", "time")] == "clusters/lab.yaml:4"


@pytest.mark.parametrize(
    ("given", "summary"),
    [
        ({}, "1 rank = 1 node x 1, accumulation 1"),
        ({"ranks": 8}, "8 ranks = 1 node x 8, accumulation 1"),
        ({"nodes": 1}, "8 ranks = 1 node x 8, accumulation 1"),
        ({"nodes": 8}, "64 ranks = 8 nodes x 8, accumulation 1"),
        ({"ranks": 4, "sets": ("train.data.micro_batch_size=2",)}, "4 ranks = 1 node x 4, accumulation 8"),
        ({"nodes": 2, "sets": ("train.data.micro_batch_size=1",)}, "16 ranks = 2 nodes x 8, accumulation 4"),
        ({"nodes": 2, "sets": ("cluster.ranks_per_node=4",)}, "8 ranks = 2 nodes x 4, accumulation 1"),
        ({"sets": ("resources.ranks=32",)}, "32 ranks = 4 nodes x 8, accumulation 1"),
        ({"nodes": 2, "sbatch": {"gpus-per-node": "a100:4"}}, "8 ranks = 2 nodes x 4, accumulation 1"),
    ],
)
def test_ranks_nodes_and_accumulation(make: Make, given: dict[str, Any], summary: str) -> None:
    assert make(**given).summary == summary


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"ranks": 12}, "12 ranks do not fill nodes of 8", "use 8 or 16: a node of lab takes 8"),
        ({"ranks": 2, "nodes": 1}, "--ranks and --nodes exclude each other", ""),
        ({"ranks": 0}, "must be at least 1", ""),
        ({"nodes": -1}, "must be at least 1", ""),
        ({"ranks": 24}, "global_batch_size 64 does not divide over 24 ranks", "ranks that do: [1, 2, 4, 8, 16, 32, 64]"),
        ({"ranks": 8, "sets": ("train.data.micro_batch_size=3",)}, "not a multiple of micro_batch_size 3 x 8 ranks", "must divide 64"),
        ({"ranks": 8, "sets": ("train.parallel.shard=3",)}, "is not 8 ranks", ""),
    ],
)
def test_what_does_not_come_out_even_is_refused_with_what_does(make: Make, given: dict[str, Any], message: str, hint: str) -> None:
    (problem,) = _problems(make, **given)
    assert message in problem.message and hint in problem.hint


def test_a_part_of_one_node_asks_for_as_many_gpus(make: Make) -> None:
    assert make(ranks=2).sbatch["gpus-per-node"] == "2"
    assert make(CLUSTER.replace("gpus-per-node: 8", "gpus-per-node: a100:8"), ranks=2).sbatch["gpus-per-node"] == "a100:2"
    assert make(CLUSTER.replace("gpus-per-node: 8", "gres: gpu:8"), ranks=2).sbatch["gres"] == "gpu:2"
    assert make(CLUSTER + "ranks_per_node: 4\n", ranks=2).sbatch["gpus-per-node"] == 8
    assert make(ranks=2).cluster["slurm"]["gpus-per-node"] == 8


@pytest.mark.parametrize(
    ("given", "time_s"),
    [
        ({}, 86400),
        ({"sets": ("resources.time=10",)}, 600),
        ({"sets": ("cluster.slurm.time=20", "resources.time=10")}, 1200),
        ({"sets": ("resources.time=10",), "shell_environment": {"SBATCH_TIMELIMIT": "30"}}, 1800),
        ({"sets": ("resources.time=10",), "shell_environment": {"SBATCH_TIMELIMIT": "30"}, "sbatch": {"time": "1:00:00"}}, 3600),
        ({"cluster": CLUSTER.replace(', time: "24:00:00"', "")}, 1800),
        ({"cluster": CLUSTER.replace(', time: "24:00:00"', ", time: UNLIMITED")}, None),
    ],
)
def test_the_time_limit_is_the_nearest_layers(make: Make, given: dict[str, Any], time_s: int | None) -> None:
    plan = make(**given)
    assert plan.time_s == time_s and "time" in plan.sbatch


@pytest.mark.parametrize(
    ("slurm", "given", "threads"),
    [
        ("cpus-per-task: 64", {"ranks": 8}, 8),
        ("cpus-per-task: 4", {"ranks": 8}, 1),
        ("cpus-per-gpu: 6", {"ranks": 8}, 6),
        ("cpus-per-gpu: 6", {"ranks": 2}, 6),
        ("exclusive: true", {"ranks": 2}, 3),
        ("hold: true", {"ranks": 1}, 1),
        ("cpus-per-task: 64", {"ranks": 8, "sbatch": {"cpus-per-task": 32}}, 4),
        ("cpus-per-task: 64", {"ranks": 8, "sets": ("resources.threads_per_rank=5",)}, 5),
    ],
)
def test_threads_are_the_cores_of_a_node_over_its_ranks(make: Make, slurm: str, given: dict[str, Any], threads: int) -> None:
    plan = make(f"executor: slurm\npaths: {{data: d}}\nslurm: {{gpus-per-node: 8, {slurm}}}\n", **given)
    assert plan.threads_per_rank == plan.recipe["resources"]["threads_per_rank"] == threads


def test_memory_of_a_higher_layer_replaces_every_form_below(make: Make) -> None:
    plan = make(CLUSTER.replace("partition: main", "mem: 10G"), sbatch={"mem-per-cpu": "1G"})
    assert plan.sbatch["mem-per-cpu"] == "1G" and "mem" not in plan.sbatch and ("sbatch", "mem") not in plan.origins


def test_an_option_can_be_switched_off(make: Make) -> None:
    assert "exclusive" not in make(CLUSTER.replace("partition: main", "exclusive: yes"), sbatch={"exclusive": False}).sbatch


def test_wrong_options_come_at_once_with_where_they_were_given(make: Make) -> None:
    found = _problems(make, sbatch={"nodes": 3, "time": "soon"}, shell_environment={"SBATCH_PARTITION": "a;b"}, name="../x", ranks=12)
    told = [(problem.key, str(problem.where)) for problem in found]
    assert told == [
        ("--name", "command line"), ("--partition", "SBATCH_PARTITION of the shell"), ("--nodes", "command line"),
        ("--time", "command line"), ("--ranks", "command line"),
    ]  # fmt: skip


def test_a_local_run_is_one_node_of_as_many_ranks_as_asked(make: Make) -> None:
    plan = make(None, ranks=2, shell_environment={"SBATCH_PARTITION": "x"})
    assert (plan.summary, plan.sbatch, plan.time_s, plan.threads_per_rank) == ("2 ranks = 1 node x 2, accumulation 1", {}, None, 3)
    assert make(None, sbatch={"time": "5"}).time_s == 300
    assert make(None, nodes=1).nodes == 1
    assert make(None, ranks=2, gpus=2).ranks == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"nodes": 2}, "one node"),
        ({"ranks": 4, "gpus": 2}, "4 ranks are more than the 2 GPUs here"),
        ({"ranks": 4, "sets": ("cluster.ranks_per_node=2",)}, "more than the 2 of ranks_per_node"),
        ({"sbatch": {"partition": "x"}}, "takes no sbatch options"),
    ],
)
def test_what_a_local_run_cannot_do_is_refused(make: Make, given: dict[str, Any], message: str) -> None:
    (problem,) = _problems(make, None, **given)
    assert message in problem.message


def test_a_percent_sign_in_the_runs_folder_is_refused(make: Make, tmp_path: Path) -> None:
    (problem,) = _problems(make, runs_dir=tmp_path / "a%b")
    assert "%" in problem.message


def test_runs_go_where_the_command_line_says(make: Make, tmp_path: Path) -> None:
    assert make(runs_dir=Path("here"), name="mine").path == tmp_path / "here/mine"
