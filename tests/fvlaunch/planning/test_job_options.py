"""The options of a job: which layer wins, what is told of it, and a GPU for each rank."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fvlaunch.config.compose import compose
from fvlaunch.config.schema import Cluster
from fvlaunch.errors import ConfigError, Problem
from fvlaunch.planning.plan import Plan, make_plan

Make = Callable[..., Plan]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    (tmp_path / "clusters").mkdir()

    def plan(
        slurm: str, shell: dict[str, str] | None = None, more: str = "device: cpu\n", recipe: str = "shapes-finetune", **given: Any
    ) -> Plan:
        (tmp_path / "clusters/lab.yaml").write_text(f"executor: slurm\npaths: {{data: d, models: m}}\nslurm: {{{slurm}}}\n{more}")
        composed = compose(recipe, "lab", cwd=tmp_path)
        return make_plan(composed, now=datetime(2026, 1, 2), cwd=tmp_path, shell=shell, **given)

    return plan


def _problem(make: Make, *args: Any, **given: Any) -> Problem:
    with pytest.raises(ConfigError) as caught:
        make(*args, **given)
    (problem,) = caught.value.problems
    return problem


# --- the shell


def test_what_the_shell_changes_is_told_with_what_it_beats(make: Make) -> None:
    plan = make("partition: low, gpus-per-node: 1", {"SBATCH_PARTITION": "debug", "SBATCH_ACCOUNT": "a", "SBATCH_GRES": "gpu:v100:1"})
    assert (plan.sbatch["partition"], plan.sbatch["account"], plan.sbatch["gres"]) == ("debug", "a", "gpu:v100:1")
    assert "gpus-per-node" not in plan.sbatch
    assert plan.notes == (
        "note: SBATCH_ACCOUNT=a in the shell is used as account",
        "note: SBATCH_GRES=gpu:v100:1 in the shell is used instead of cluster.slurm.gpus-per-node: 1 (clusters/lab.yaml:3)",
        "note: SBATCH_PARTITION=debug in the shell is used instead of cluster.slurm.partition: low (clusters/lab.yaml:3)",
    )


def test_nothing_is_told_of_a_variable_that_changes_nothing(make: Make) -> None:
    shell = {"SBATCH_PARTITION": "low", "SBATCH_QOS": "q", "SBATCH_GPUS": "4"}
    assert make("partition: low, gpus-per-node: 1", shell, sbatch={"qos": "r", "gpus-per-node": "1"}).notes == ()


def test_what_fvlaunch_does_not_take_from_the_shell_is_told(make: Make) -> None:
    shell = {"SBATCH_OUTPUT": "x", "SBATCH_TIME": "5"}
    assert make("partition: low", shell).notes == (
        "note: SBATCH_OUTPUT=x in the shell is ignored: logs are kept in the run directory",
        "note: SBATCH_TIME=5 in the shell is ignored: sbatch reads no such variable (it reads SBATCH_TIMELIMIT)",
    )


@pytest.mark.parametrize("variable", ["SLURM_CLUSTERS", "SBATCH_CLUSTERS"])
def test_another_cluster_named_by_the_shell_is_refused(make: Make, variable: str) -> None:
    problem = _problem(make, "partition: low", {variable: "gpu2"})
    assert f"{variable}=gpu2" in problem.message and f"unset {variable}" in problem.hint


# --- GPUs


@pytest.mark.parametrize(
    "gpus",
    [
        "gres: 'gpu:2'", "gres: 'gpu:2080ti:2'", "gres: 'nvme:1,gpu:1g.10gb:2'", "gpus-per-node: '2080ti:2'", "gpus: 2", "gpus: 'a100:2'",
        "gpus-per-task: 2", "tres-per-task: 'gres/gpu:2'", "gpus-per-socket: 1, sockets-per-node: 2",
    ],
)  # fmt: skip
def test_each_form_gives_as_many_ranks_as_gpus(make: Make, gpus: str) -> None:
    assert make(gpus, nodes=1).summary == "2 ranks = 1 node x 2, accumulation 1"
    smaller = make(gpus, ranks=1)
    (note,) = smaller.notes
    assert "1 rank: 1 GPU asked for, not the 2 of " in note and "clusters/lab.yaml:3; --ranks 2 uses all" in note
    assert not any("2" in str(smaller.sbatch[form]).rpartition(":")[2] for form in smaller.sbatch if "gpu" in form or form == "gres")


def test_gpus_of_the_whole_job_are_spread_over_its_nodes(make: Make) -> None:
    plan = make("gpus: 'a100:8'", nodes=2)
    assert plan.summary == "8 ranks = 2 nodes x 4, accumulation 1"
    assert plan.sbatch["gpus-per-node"] == "a100:4" and "gpus" not in plan.sbatch
    assert make("gpus: 8, gpus-per-node: 4", ranks=8).sbatch["gpus-per-node"] == 4


@pytest.mark.parametrize(
    ("slurm", "given", "message", "hint"),
    [
        ("gpus: 8", {"nodes": 3}, "8 GPUs in all cannot be spread evenly over 3 nodes", "gpus-per-node"),
        ("gpus: 8", {"ranks": 16}, "16 ranks want a GPU each, and gpus asks for 8 in all", "gpus-per-node"),
        ("gpus: 8, gpus-per-node: 4", {"ranks": 16}, "gpus asks for 8 in all, and 16 ranks run", "leave it out"),
        ("gres: 'gpu:2', gpus-per-node: 4", {"ranks": 4}, "gpus-per-node asks for 4 GPUs of a node, gres for 2", "keep one of them"),
        ("gres: 'gpu:a:2,gpu:b:2'", {"ranks": 2}, "gres names several types, and 2 GPUs of a node are wanted", "the one type"),
        ("partition: a", {"sbatch": {"gres": "gpu:2"}}, "--gres asks for 2 GPUs of a node, and 1 rank would use one each", "--ranks 2"),
    ],
)
def test_what_does_not_agree_is_refused(make: Make, slurm: str, given: dict[str, Any], message: str, hint: str) -> None:
    problem = _problem(make, slurm, **given)
    assert problem.message == message and hint in problem.hint and problem.where is not None


def test_gpus_of_the_command_line_replace_every_form_of_the_profile(make: Make) -> None:
    plan = make("gres: 'gpu:8,nvme:1', gpus-per-task: 8", ranks=2, sbatch={"gpus-per-node": "a100:2"})
    assert plan.summary.startswith("2 ranks = 1 node x 2") and "gpus-per-task" not in plan.sbatch
    assert (plan.sbatch["gpus-per-node"], plan.sbatch["gres"]) == ("a100:2", "nvme:1")


def test_ranks_beside_their_gpus_are_told_and_so_is_a_job_without_any(make: Make) -> None:
    (note,) = make("gpus-per-node: 2", more="ranks_per_node: 1\n").notes
    assert "2 GPUs of a node asked for (gpus-per-node: 2, clusters/lab.yaml:3), and 1 rank on each (ranks_per_node)" in note
    (note,) = make("gres: 'gpu:1'", sbatch={"gres": "nvme:1"}).notes
    assert "no GPU is asked for: gres: gpu:1 of the profile is replaced" in note


@pytest.mark.parametrize(
    ("slurm", "words"),
    [("gres: 'shard:4'", "gres: shard:4 is a part of a GPU"), ("exclusive: true", "exclusive holds whole nodes, and no GPU is asked for")],
)
def test_a_job_that_may_hold_gpus_without_asking_for_any_is_told(make: Make, slurm: str, words: str) -> None:
    assert make(slurm).notes == (f"note: {words}: one rank on each node, unless ranks_per_node says more",)
    assert make(slurm, more="device: gpu\nranks_per_node: 1\n").notes == ()


# --- no GPU


def lacking(plan: Plan) -> list[str]:
    return [note for note in plan.notes if "asks for no GPU" in note]


@pytest.mark.parametrize(
    "slurm", ["partition: low", "gres: 'nvme:1'", "exclusive: true", "gpus: 0", "gres: 'gpu:0'", "partition: low, constraint: a100"]
)
def test_a_job_that_asks_for_no_gpu_is_told_once_unless_the_profile_says_what_is_meant(make: Make, slurm: str) -> None:
    (note,) = lacking(make(slurm, more=""))
    assert "computes on the CPU of a node that shows none; device in the profile" in note and "\n" not in note
    assert not lacking(make(slurm, more="device: cpu\n")) and not lacking(make(slurm, more="device: gpu\n"))
    assert lacking(make(slurm, more="ranks_per_node: 4\n", ranks=4))


@pytest.mark.parametrize(
    "slurm", ["gpus-per-node: 1", "gres: 'gpu:a100:1'", "gpus: 1", "gpus-per-task: 1", "gres: shard:2", "gres: mps:50"]
)
def test_a_job_that_asks_for_gpus_or_for_a_part_of_one_is_not_told_that_it_lacks_one(make: Make, slurm: str) -> None:
    assert not lacking(make(slurm, more=""))


def test_gpus_of_the_command_line_and_of_the_shell_count_and_so_does_their_absence(make: Make) -> None:
    assert not lacking(make("partition: low", more="", sbatch={"gpus-per-node": "1"}))
    assert not lacking(make("partition: low", {"SBATCH_GRES": "gpu:1"}, more=""))
    assert lacking(make("gpus-per-node: 1", more="", sbatch={"gres": "gpu:0"}))


def test_a_download_needs_no_gpu(make: Make) -> None:
    assert not lacking(make("partition: low", more="", recipe="download"))


def test_where_gpus_come_with_the_partition_each_rank_must_find_one(make: Make) -> None:
    cluster = Cluster.model_validate(make("exclusive: true", more="device: gpu\nranks_per_node: 4\n", ranks=4).cluster)
    assert (cluster.gpus_of_a_node(None, 4), cluster.gpus_of_a_node(8, 4), cluster.gpus_of_a_node(2, 4)) == (4, 4, 4)


# --- a narrow environment


@pytest.mark.parametrize("arguments", ["[--export=NONE]", "[--mpi=none, --export, 'X,Y']"])
def test_an_export_of_srun_that_keeps_the_agents_from_their_code_is_refused(make: Make, arguments: str) -> None:
    problem = _problem(make, "partition: a", more=f"srun_args: {arguments}\n")
    assert problem.key == "cluster.srun_args" and "slurm: {export: ...}" in problem.hint
    assert make("partition: a", more="srun_args: ['--export=ALL,X=y']\n").srun_args == ("--export=ALL,X=y",)


@pytest.mark.parametrize(
    ("export", "exported"),
    [
        ("NONE", "HF_TOKEN"), ("none", "HF_TOKEN"), ("NIL", "NIL"), ("ALL", "ALL"), ("ALL,X=y", "ALL,X=y"), ("X,Y=z", "X,Y=z,HF_TOKEN"),
        ("HF_TOKEN", "HF_TOKEN"),
    ],
)  # fmt: skip
def test_a_job_of_a_narrow_environment_still_gets_its_secrets(make: Make, export: str, exported: str) -> None:
    plan = make(f"export: '{export}'", {"HF_TOKEN": "abc"}, "secrets: [HF_TOKEN, WANDB_API_KEY]\n")
    assert plan.sbatch["export"] == exported and plan.cluster["slurm"]["export"] == export
    assert make(f"export: '{export}'", {}, "secrets: [HF_TOKEN]\n").sbatch["export"] == export
