"""run.yaml's lock: what a run was made with, a patch of what nobody committed, and what is no longer so."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from fvlaunch.cli import app
from fvlaunch.config.compose import compose
from fvlaunch.planning import lockfile, planner
from fvlaunch.runs import code_snapshot
from tests.support.launcher import Workspace
from tests.support.parquet import write_samples
from tests.support.source_copy import checkout, environment, run_git

PREPARED = ("submit", "shapes-finetune", "--cluster", "lab", "--prepare", "--name")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkout(tmp_path_factory.mktemp("source"))


@pytest.fixture
def workspace(tmp_path: Path, source: Path) -> Workspace:
    made = Workspace(tmp_path / "work", environment(source, dict(os.environ)))
    made.write("clusters/lab.yaml", {"executor": "slurm", "paths": {"data": "data"}, "slurm": {"partition": "main"}})
    return made


def lock_of(workspace: Workspace, name: str) -> dict[str, Any]:
    return lockfile.of_file(workspace.runs / name / "run.yaml")


def test_the_lock_and_the_snapshot_hold_what_nobody_committed(workspace: Workspace, source: Path, tmp_path: Path) -> None:
    commit = run_git(source, "rev-parse", "HEAD").strip()
    workspace.call(*PREPARED, "clean")
    assert lock_of(workspace, "clean")["git"] == {"commit": commit, "dirty": False}
    assert not (workspace.runs / "clean/code" / code_snapshot.PATCH).exists()
    edited, new, latin = source / "trainers/diffusion/flow_schedule.py", source / "fvlaunch/new.py", source / "clusters/notes.txt"
    before = edited.read_text()
    try:
        edited.write_text(before + "\nMORE = 1\n")
        new.write_text("NEW = 1\n")
        latin.write_bytes(b"caf\xe9\n")
        workspace.call(*PREPARED, "dirty")
        assert run_git(source, "status", "--porcelain").split() == [
            "M",
            "trainers/diffusion/flow_schedule.py",
            "??",
            "clusters/notes.txt",
            "??",
            "fvlaunch/new.py",
        ]
    finally:
        edited.write_text(before)
        new.unlink()
        latin.unlink()
    patch = (workspace.runs / "dirty/code" / code_snapshot.PATCH).read_bytes()
    lock = lock_of(workspace, "dirty")
    assert lock["git"] == {"commit": commit, "dirty": True, "patch_sha256": hashlib.sha256(patch).hexdigest()}
    assert lock["code"] != lock_of(workspace, "clean")["code"]
    again = checkout(tmp_path / "again")  # the commit and the patch are the tree
    (tmp_path / "p").write_bytes(patch)
    run_git(again, "apply", str(tmp_path / "p"))
    assert (again / "trainers/diffusion/flow_schedule.py").read_text() == before + "\nMORE = 1\n" and (
        again / "fvlaunch/new.py"
    ).read_text() == "NEW = 1\n"
    assert (again / "clusters/notes.txt").read_bytes() == b"caf\xe9\n"


def test_edits_that_make_no_patch_are_never_told_as_a_clean_checkout(workspace: Workspace, source: Path, tmp_path: Path) -> None:
    secret, large = source / "fvlaunch/closed.py", source / "templates/large.bin"
    broken = tmp_path / "git"  # git that cannot write where it should, as with a full /tmp
    broken.mkdir()
    (broken / "git").write_text(f'#!/bin/sh\ncase "$*" in *" add "*) exit 128;; esac\nexec {shutil.which("git")} "$@"\n')
    (broken / "git").chmod(0o755)
    try:
        secret.write_text("NEW = 1\n")
        path = workspace.env["PATH"]
        workspace.env["PATH"] = f"{broken}{os.pathsep}{path}"
        workspace.call(*PREPARED, "no-room")
        workspace.env["PATH"] = path
        large.write_bytes(random.Random(0).randbytes(21_000_000))
        workspace.call(*PREPARED, "large")
    finally:
        secret.unlink()
        large.unlink(missing_ok=True)
    for name in ("no-room", "large"):
        assert lock_of(workspace, name)["git"] == {"commit": run_git(source, "rev-parse", "HEAD").strip(), "dirty": True}, name
        assert "could not be written" in (workspace.runs / name / "code" / code_snapshot.PATCH).read_text()


def test_the_lock_names_versions_site_models_and_data(workspace: Workspace, tmp_path: Path) -> None:
    data, model = tmp_path / "clips", tmp_path / "model"
    write_samples(data / "deep/a.parquet", 64)
    (model / "transformer").mkdir(parents=True)
    (model / "transformer/config.json").write_text("{}")
    (model / "transformer/a.safetensors").write_bytes(b"x" * 100)
    (data / "prompts.safetensors").touch()
    sets = [f"train.data.path={data}", "train.data.prepare=null", f"train.models.student.init_from={model}"]
    sets.append("train.models.student.architecture=null")
    workspace.call(*PREPARED, "named", *(word for text in sets for word in ("--set", text)))
    lock = lock_of(workspace, "named")
    assert lock["models"][str(model)]["sha256"] and lock["data"][str(data)]["files"] == 2
    assert {"python", "torch", "submitit"} <= lock["versions"].keys() and lock["site"]["executor"] == "slurm"
    write_samples(data / "b.parquet", 1)
    (model / "transformer/a.safetensors").write_bytes(b"y" * 100)
    done = workspace.call("submit", "runs/named/run.yaml", "--prepare", "--name", "repeated", check=False)
    assert done.returncode == 0
    workspace.call(*PREPARED, "other")
    found = {row["key"]: row for row in json.loads(workspace.call("diff", "named", "repeated", "--json").stdout)}
    assert {key.rpartition(".")[2] for key in found} == {"bytes", "files", "names_sha256", "sha256"}
    assert "train.data.path" in workspace.call("diff", "named", "other").stdout


def model_folder(path: Path, weights: bytes) -> Path:
    """A folder of two experts with so much in it as the lock looks at."""
    for name in ("transformer", "transformer_2"):
        (path / name).mkdir(parents=True)
        (path / name / "config.json").write_text("{}")
        (path / name / "a.safetensors").write_bytes(weights)
    return path


EXPERTS = "train.models.student.experts.{}.init_from={}"


def test_the_lock_names_what_the_experts_of_a_role_start_from(workspace: Workspace, tmp_path: Path) -> None:
    both, high, low = (model_folder(tmp_path / name, name.encode()) for name in ("both", "high", "low"))
    data = tmp_path / "clips"
    data.mkdir()
    (data / "a.parquet").write_bytes(b"PAR1" + b"x" * 20 + b"PAR1")
    sets = [f"train.data.path={data}", f"train.models.student.init_from={both}"]
    sets += [EXPERTS.format("transformer", high), EXPERTS.format("transformer_2", low)]
    done = compose("finetune-a14b", "local", sets=sets)
    plan = planner.plan_of(done, name="a", ranks=1, nodes=None, sbatch={}, runs_dir=tmp_path)
    models = lockfile.make(plan, {})["models"]
    assert {str(both), str(high), str(low)} <= models.keys() and len({models[str(one)]["sha256"] for one in (high, low)}) == 2


def test_experts_weights_that_only_lie_elsewhere_do_not_make_another_run(tmp_path: Path) -> None:
    old, moved, other = model_folder(tmp_path / "old", b"x"), model_folder(tmp_path / "moved", b"x"), model_folder(tmp_path / "other", b"y")
    lock = {"models": {str(old): lockfile._model(str(old), None)}}

    def train(folder: Path) -> dict[str, Any]:
        return {"models": {"student": {"init_from": "Org/Model", "experts": {"transformer": {"init_from": str(folder)}}}}}

    assert lockfile.moved_inputs(lock, train(old), train(moved)) == ["models.student.experts.transformer.init_from"]
    assert lockfile.moved_inputs(lock, train(old), train(other)) == []
    assert lockfile.moved_inputs(lock, {"models": {"student": {"experts": None}}}, train(moved)) == []


def test_a_run_yaml_is_a_recipe_and_submitting_it_repeats_the_run(workspace: Workspace) -> None:
    workspace.call(*PREPARED, "first", "--set", "train.seed=7", "-t", "00:42:00")
    workspace.call("submit", "runs/first/run.yaml", "--prepare", "--name", "second")
    one, two = (yaml.safe_load((workspace.runs / name / "run.yaml").read_text()) for name in ("first", "second"))
    assert one["recipe"] == two["recipe"] and one["cluster"] == two["cluster"] and one["recipe"]["train"]["seed"] == 7
    done = workspace.call("diff", "first", "second")
    assert done.stdout == "" and "say the same" in done.stderr


def test_a_repeated_run_is_told_what_is_not_as_it_was_and_its_own_code_repeats_it(workspace: Workspace, source: Path) -> None:
    workspace.call(*PREPARED, "old")
    edited = source / "trainers/diffusion/flow_schedule.py"
    before = edited.read_text()
    try:
        edited.write_text(before + "\nMORE = 1\n")
        done = workspace.call("submit", "runs/old/run.yaml", "--prepare", "--name", "new")
        assert "warning: not as when" in done.stderr and "git.dirty False -> True" in done.stderr and "code.sha256" in done.stderr
        own = Workspace(workspace.folder, environment(workspace.runs / "old/code", workspace.env))
        done = own.call("submit", "runs/old/run.yaml", "--prepare", "--name", "same")
    finally:
        edited.write_text(before)
    assert "warning" not in done.stderr and lock_of(workspace, "same")["code"] == lock_of(workspace, "old")["code"]


def test_two_recipes_differ_where_they_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["diff", "dmd2", "dmd2-vsa", "--json", "--cluster", "local"]) == 0
    found = {row["key"]: row for row in json.loads(capsys.readouterr().out)}
    assert found["resources.ranks"] == {"key": "resources.ranks", "a": 4, "b": 64}
    assert found["train.models.student.attention.kind"]["a"] is None and "train.flow_shift" not in found
    assert app.run(["diff", "dmd2", "dmd2", "--cluster", "local"]) == 0
    assert app.run(["diff", "dmd2", "nothing-of-the-kind"]) == 1
    assert "neither a recipe nor a run" in capsys.readouterr().err


def test_the_lock_knows_data_behind_links_and_a_single_file(tmp_path: Path) -> None:
    data, linked = tmp_path / "data", tmp_path / "elsewhere"
    write_samples(linked / "a.parquet", 2)
    data.mkdir()
    (data / "part").symlink_to(linked)
    (linked / "loop").symlink_to(data)
    first, alone = lockfile._folder(data), lockfile._folder(linked / "a.parquet")
    assert first is not None and alone is not None and first["files"] == alone["files"] == 1 and first["bytes"] == alone["bytes"] > 0
    write_samples(linked / "a.parquet", 3)
    assert lockfile._folder(data) != first and lockfile._folder(linked / "a.parquet") != alone
