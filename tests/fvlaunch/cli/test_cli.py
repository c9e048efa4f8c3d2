"""The command line: every bad input is one clear error that leaves nothing behind; data on stdout, messages on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from fvlaunch.runs.directory import Run
from tests.support.commands import Call, make_run, nothing_made, refused, write
from tests.support.paths import ROOT

pytestmark = pytest.mark.usefixtures("folder")

OTHER_DATA = ("--set", "train.data.prepare=null", "--set", "train.data.path=clips")


# What a submission can get wrong


@pytest.mark.parametrize(
    ("words", "what", "where", "hint"),
    [
        (["shapes-finetun"], "no recipe is called 'shapes-finetun'", "", "did you mean shapes-finetune?"),
        (["./missing.yaml"], "recipe file ./missing.yaml does not exist", "", "fvlaunch list"),
        (["own.yaml", "--cluster", "lokal"], "no cluster is called 'lokal'", "", "did you mean local?"),
        (["own.yaml", "--set", "train.max_step=3"], "unknown key 'max_step'", "--set train.max_step=3: train.max_step", "max_steps?"),
        (["own.yaml", "--set", "train.learning_rate=3"], "unknown key 'learning_rate'", "--set", "train.optimizers.<role>.lr"),
        (["own.yaml", "--set", "train.max_steps=abc"], "must be a whole number, not 'abc'", "--set train.max_steps=abc", "for example 8"),
        (["own.yaml", "--set", "train.max_steps"], "expected KEY=VALUE", "--set train.max_steps", "for example"),
        (["own.yaml", "--set", "train.data.path=a\nb"], "a line break is not allowed", "train.data.path", "one line"),
        (["own.yaml", "--set", 'train.data.path="a\\nb"'], "a line break is not allowed", "train.data.path", "one line"),
        (["own.yaml", "--name", "a\nb"], "cannot name a run", "command line: --name", "letters, digits"),
        (["own.yaml", "--name", "../a"], "cannot name a run", "command line: --name", "letters, digits"),
        (["own.yaml", "--ranks", "3"], "does not divide over 3 ranks", "shapes.yaml:", "[1, 2, 4, 8, 16, 32, 64]"),
        (["own.yaml", "--ranks", "2", "--nodes", "1"], "exclude each other", "command line", "nodes follow"),
        (["own.yaml", "-p", "main"], "a local run takes no sbatch options", "command line: --partition", "--cluster"),
        (["own.yaml", "--", "switches=1"], "'switches=1' is not an sbatch option", "", "--option=value"),
        (["own.yaml", "--runs-dir", "a%j"], "holds a %", "", "--runs-dir"),
        (["own.yaml", *OTHER_DATA], "clips does not exist", "train.data.path", "preprocess"),
    ],
)  # fmt: skip
def test_a_wrong_submission_is_one_clear_error_and_leaves_nothing(call: Call, words: list[str], what: str, where: str, hint: str) -> None:
    clusters = [] if "--cluster" in words else ["--cluster", "local"]
    refused(call("submit", *clusters, *words), what, where, hint)
    nothing_made()


def test_a_wrong_key_of_a_file_is_told_with_its_line(call: Call) -> None:
    write("bad.yaml", "extends: ./own.yaml\ntrain:\n  max_steps: 5\n  flow_shfit: 3\n")
    refused(call("submit", "bad.yaml", "--cluster", "local"), "unknown key 'flow_shfit'", "bad.yaml:4", "did you mean flow_shift?")
    nothing_made()


def test_all_that_is_wrong_is_told_at_once(call: Call) -> None:
    write("bad.yaml", "extends: ./own.yaml\ntrain:\n  max_steps: soon\n  flow_shfit: 3\n")
    answer = call("submit", "bad.yaml", "--cluster", "local")
    assert answer.code == 1 and answer.err.count("error: ") == 2
    assert "bad.yaml:3: train.max_steps" in answer.err and "bad.yaml:4: train.flow_shfit" in answer.err
    nothing_made()


def test_an_existing_run_is_refused_and_untouched(call: Call) -> None:
    run = make_run()
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    refused(call("submit", "own.yaml", "--cluster", "local", "--name", "old"), "a run named 'old' exists already", "", "--name")
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before


def test_a_data_path_without_parquet_is_refused(call: Call) -> None:
    Path("clips").mkdir()
    refused(call("submit", "own.yaml", "--cluster", "local", *OTHER_DATA), "clips holds no parquet files", "train.data.path", "preprocess")
    nothing_made()


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"PAR1" + bytes(100), "is cut off"), (b"", "is empty"), (b"nothing like it at all", "is not a parquet file")],
)
def test_a_corrupt_parquet_file_is_named(call: Call, content: bytes, what: str) -> None:
    Path("clips").mkdir()
    Path("clips/good.parquet").write_bytes(b"PAR1....PAR1")
    Path("clips/bad.parquet").write_bytes(content)
    refused(call("submit", "own.yaml", "--cluster", "local", *OTHER_DATA), f"bad.parquet {what}", "train.data.path", "make it again")
    nothing_made()


def test_a_slurm_cluster_without_sbatch_is_refused(call: Call, no_slurm: None) -> None:
    refused(call("submit", "own.yaml", "--cluster", "example-slurm", "--runs-dir", "runs"), "sbatch is not on PATH", "", "--cluster local")
    nothing_made()


def test_where_slurm_is_and_no_cluster_was_named_nothing_starts_here(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    write("bin/sbatch", "#!/bin/sh\n").chmod(0o755)
    monkeypatch.setenv("PATH", str(Path("bin").absolute()))
    refused(call("submit", "own.yaml"), "where shall own.yaml run?", "", "--cluster NAME")
    nothing_made()


def test_a_file_in_the_way_of_the_runs_folder_is_one_error(call: Call) -> None:
    write("runs", "not a folder")
    refused(call("submit", "own.yaml", "--cluster", "local"), "cannot make the run directory", "", "--runs-dir")
    assert Path("runs").read_text() == "not a folder"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_runs_folder_without_permission_is_one_error(call: Call) -> None:
    Path("runs").mkdir(mode=0o500)
    refused(call("submit", "own.yaml", "--cluster", "local"), "Permission denied", "", "--runs-dir")
    assert list(Path("runs").iterdir()) == []


# Words that are no commands


@pytest.mark.parametrize(
    ("words", "what", "hint"),
    [
        (["sbumit"], "No such command 'sbumit'", "fvlaunch --help"),
        (["submit"], "Missing argument 'RECIPE|PIPELINE'", "fvlaunch submit --help"),
        (["submit", "own.yaml", "--frob"], "No such option: --frob", "fvlaunch submit --help"),
        (["submit", "own.yaml", "--ranks", "two"], "Invalid value for '--ranks'", "fvlaunch submit --help"),
        (["submit", "own.yaml", "--cluster"], "Option '--cluster' requires an argument", "fvlaunch --help"),
        (["status", "--frob"], "No such option: --frob", "fvlaunch status --help"),
        (["list", "frogs"], "cannot list 'frogs'", "recipes, clusters, pipelines or runs"),
    ],
)
def test_a_usage_error_ends_with_1_and_says_where_help_is(call: Call, words: list[str], what: str, hint: str) -> None:
    refused(call(*words), what, "", hint)
    nothing_made()


def test_fvlaunch_alone_shows_its_help(call: Call) -> None:
    answer = call()
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith("Usage: fvlaunch") and "submit" in answer.err and "error" not in answer.err


def test_help_and_version_are_data(call: Call) -> None:
    assert call("--version").out.startswith("fvlaunch ")
    answer = call("--help")
    assert "\x1b" not in call("\x1b[2J").err  # what was typed must not control the terminal
    assert (answer.code, answer.err) == (0, "") and answer.out.startswith("Usage: fvlaunch")


# Runs


def test_list_tells_where_each_was_found(call: Call) -> None:
    write("clusters/lab.yaml", {"description": "ours", "executor": "local"})
    answer = call("list", "clusters")
    assert answer.err == ""
    lines = {line.split()[0]: line for line in answer.out.splitlines()}
    assert "ours" in lines["lab"] and lines["lab"].endswith("working directory")
    assert lines["local"].endswith("packaged") and "example-slurm" in lines
    recipes = {entry["name"]: entry for entry in json.loads(call("list", "recipes", "--json").out)}
    assert recipes["shapes-finetune"]["layer"] == "packaged" and Path(recipes["shapes-finetune"]["path"]).is_file()
    assert not any(name.startswith("base") for name in recipes)


def test_show_tells_each_values_origin(call: Call) -> None:
    answer = call("show", "own.yaml", "--cluster", "local", "--set", "train.seed=7")
    origin = {line.partition(": ")[0]: line.partition("  # ")[2] for line in answer.out.splitlines()}
    assert answer.err == "" and origin["train.seed"] == "--set"
    assert origin["train.optimizers.student.lr"].endswith("own.yaml:5")
    assert "base/shapes.yaml:" in origin["train.flow_shift"] and "local.yaml:" in origin["cluster.executor"]
    assert origin["train.deterministic"] == "default"
    shown = json.loads(call("show", "own.yaml", "--cluster", "local", "--set", "train.seed=7", "--json").out)
    assert shown["recipe"]["train"]["seed"] == 7 and shown["origins"]["train.seed"] == "--set"


def test_show_means_the_cluster_that_submit_means(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    write("clusters/lab.yaml", {"executor": "local", "paths": {"data": "lab-data"}})
    monkeypatch.setenv("FVLAUNCH_CLUSTER", "lab")
    assert json.loads(call("show", "own.yaml", "--json").out)["recipe"]["train"]["data"]["path"].endswith("lab-data/shapes")


def test_a_run_repeats_on_its_own_cluster_whatever_the_default_is(call: Call, finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FVLAUNCH_CLUSTER", "example-slurm")
    told = json.loads(call("submit", str(finished.config_file), "--dry-run", "--json").out)
    assert told["batch_script"] is None


def test_a_dry_run_makes_nothing(call: Call) -> None:
    answer = call("submit", "own.yaml", "--cluster", "local", "--name", "dry", "--dry-run")
    assert answer.code == 0 and "dry: 1 rank = 1 node x 1, accumulation 1; nothing was submitted" in answer.err
    assert yaml.safe_load(answer.out)["train"]["max_steps"] > 0
    nothing_made()


@pytest.mark.usefixtures("no_slurm")
def test_a_dry_run_for_slurm_prints_the_batch_script_where_there_is_no_slurm(call: Call) -> None:
    words = ("submit", "own.yaml", "--cluster", "example-slurm", "--ranks", "16", "--runs-dir", "runs", "--name", "dry", "--dry-run")
    answer = call(*words, "-t", "2:00:00", "--", "--switches=1")
    assert answer.code == 0 and "dry: 16 ranks = 2 nodes x 8" in answer.err
    script = answer.out[answer.out.index("#!/bin/bash") :]
    assert "#SBATCH --nodes=2" in script and "#SBATCH --time=02:00:00" in script and "#SBATCH --switches=1" in script
    assert json.loads(call(*words, "--json").out)["batch_script"].startswith("#!/bin/bash")
    nothing_made()


def test_a_reader_that_stops_early_is_no_error(tmp_path: Path) -> None:
    """As in `fvlaunch show … | head -1`."""
    argv = [sys.executable, "-m", "fvlaunch", "show", "own.yaml", "--cluster", "local"]
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(argv, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=240, check=False, env=_with_source())
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


def test_off_a_terminal_nothing_is_coloured_and_the_exit_code_is_the_process_own(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "fvlaunch", "submit", "shapes-finetun", "--cluster", "local"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False, env={**_with_source(), "FORCE_COLOR": "1"})
    assert (done.returncode, done.stdout) == (1, "") and "\x1b" not in done.stderr


def _with_source() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
