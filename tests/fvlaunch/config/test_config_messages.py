"""What a wrong recipe or cluster is answered with: all errors at once, each with its place and what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvlaunch.config.compose import compose
from tests.support.configuration import RECIPE, Write, problems
from trainers.config import check


def test_all_errors_of_both_files_and_the_command_line_come_at_once(write: Write, here: Path) -> None:
    write("clusters/lab.yaml", "executor: slrum\nslurm:\n  nodes: 2\n  partition: 'a;b'\nnope: 1\npaths: {data: /d}\n")
    write(
        "r.yaml",
        RECIPE.replace("max_steps: 10", "max_stps: 10")
        .replace("lr: 1e-5", "lr: -1, momentum: 3")
        .replace("data: {", "data: {height: tall, ")
        .replace("${paths.data}", "${paths.dta}"),
    )
    found = problems("r.yaml", "lab", cwd=here, sets=["train.sed=3", "trian.seed=3"])
    told = {(str(problem.where), problem.key) for problem in found}
    assert told == {
        ("clusters/lab.yaml:1", "cluster.executor"),
        ("clusters/lab.yaml:3", "cluster.slurm.nodes"),
        ("clusters/lab.yaml:4", "cluster.slurm.partition"),
        ("clusters/lab.yaml:5", "cluster.nope"),
        ("r.yaml:2", "train.max_steps"),
        ("r.yaml:3", "train.max_stps"),
        ("r.yaml:6", "train.data.path"),
        ("r.yaml:6", "train.data.height"),
        ("r.yaml:8", "train.optimizers.student.lr"),
        ("r.yaml:8", "train.optimizers.student.momentum"),
        ("--set train.sed=3", "train.sed"),
        ("--set trian.seed=3", "trian"),
    }


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("train.max_stepz=1", "did you mean max_steps?"),
        ("train.max-steps=1", "did you mean max_steps?"),
        ("max_steps=1", "did you mean train.max_steps?"),
        ("train.max_train_steps=1", "FastVideo's max_train_steps is train.max_steps here"),
        ("train.learning_rate=1", "train.optimizers.<role>.lr"),
        ("train.optimizers.student.learning_rate=1", "train.optimizers.<role>.lr"),
        ("train.hsdp_shard_dim=1", "train.parallel.shard"),
        ("train.parallel.hsdp_replicate_dim=1", "train.parallel.replicate"),
        ("train.sp_size=1", "train.parallel.sequence"),
        ("train.train_batch_size=1", "train.data.micro_batch_size"),
        ("train.gradient_accumulation_steps=1", "accumulation follows"),
        ("train.data.num_latent_t=20", "20 latent frames are 77"),
        ("train.ema_decay=1", "train.callbacks.ema.decay"),
        ("train.mixed_precision=bf16", "train.precision"),
        ("train.data_path=x", "train.data.path"),
        ("train.output_dir=x", "--name"),
        ("train.checkpointing_steps=1", "train.checkpoint.every_steps"),
        ("train.training_state_checkpointing_steps=1", "train.checkpoint.every_steps"),
        ("train.lr=1", "did you mean train.optimizers.student.lr"),
        ("train.decay=1", "did you mean train.callbacks.ema.decay?"),
        ("train.num_layers=1", "did you mean train.models.student.architecture.num_layers?"),
        ("train.models.student.architecture.num_layer=1", "did you mean num_layers?"),
        ("train.method.weighting=1", "did you mean weighting_scheme?"),
        ("train.method.real_score_guidance_scale=3.5", "s = w + 1: 4.5; its newer YAML files mean s itself: 3.5"),
        ("train.real_score_guidance_scale=x", "s = w + 1: w + 1"),
        ("train.zzzz=1", "known here: seed, max_steps"),
        ("cluster.limits.crash=1", "did you mean crashes?"),
        ("cluster.partition=x", "did you mean slurm.partition?"),
        ("cluster.gpus_per_node=8", "did you mean slurm.gpus-per-node?"),
        ("cluster.limits.zzzz=1", "known here: crashes"),
    ],
)
def test_an_unknown_key_is_answered_with_what_was_meant(write: Write, here: Path, setting: str, hint: str) -> None:
    (problem,) = problems("r.yaml", cwd=here, sets=[setting])
    assert hint in problem.hint and str(problem.where) == f"--set {setting}"


@pytest.mark.parametrize(
    ("recipe", "sets"),
    [
        ("shapes-finetune", ["train.data.num_frames=9"]),
        ("shapes-dfsft", ["train.data.height=16"]),
    ],
)
def test_sizes_that_the_moving_shapes_do_not_have_are_refused_before_the_job(here: Path, recipe: str, sets: list[str]) -> None:
    train = compose(recipe, "local", cwd=here, sets=sets).recipe.train
    assert train is not None
    found = [problem for problem in check(train, 1) if problem.path == ("data", "prepare")]
    assert [problem.message.partition(" with")[0] for problem in found] == ["data.prepare makes clips of 5 frames of 8x8"]
    assert "num_frames: 5, height: 8, width: 8" in found[0].hint


HUMAN = [
    ("train.max_steps=true", "must be a number, not True"),
    ("train.max_steps=0", "must be greater than 0"),
    ("train.max_steps=1.5", "must be a whole number"),
    ("train.max_steps=many", "must be a whole number, not 'many'"),
    ("train.max_steps={a: 1}", "must be a whole number"),
    ("train.flow_shift=.nan", "finite"),
    ("train.flow_shift=1e999", "finite"),
    ("train.deterministic=maybe", "must be true or false, not 'maybe'"),
    ("train.data.path=3", "must be a string"),
    ("train.data.vae_stride=[1, 2]", "missing"),
    ("train.data.vae_stride=4", "must be a tuple"),
    ("train.method=finetune", "expected a mapping with 'kind'"),
    ("train.method.kind=finetun", "unknown kind 'finetun'"),
    ("train.method.kind=[a]", "unknown kind"),
    ("train.method.kind=base", "unknown kind"),
    ("train.models.student.family=wam", "unknown family"),
    ("train.optimizers.student.kind=sgd", "unknown kind 'sgd'"),
    ("train.optimizers.student=adamw", "must be"),
    ("train.models=[student]", "must be a mapping"),
    ("train=x", "must be"),
    ('train.data.path="a\\nb"', "a line break is not allowed"),
    ('cluster.slurm.comment="a\\nb"', "a line break is not allowed"),
    ('cluster.env={A: "x\\ty"}', "a tab is not allowed"),
    ("train.extends=x", "unknown key"),
    ("extends=x", "unknown key"),
    ("train.on_nonfinite=explode", "must be 'skip' or 'stop'"),
    ("resources.time=24h", "is not a time"),
    ("cluster.runs_dir=a%jb", "holds a %"),
]


@pytest.mark.parametrize(("setting", "message"), HUMAN)
def test_wrong_values_are_told_in_words(write: Write, here: Path, setting: str, message: str) -> None:
    found = problems("r.yaml", cwd=here, sets=[setting])
    assert any(message in problem.message for problem in found), found
    assert all(str(problem.where) == f"--set {setting}" for problem in found if message in problem.message)
