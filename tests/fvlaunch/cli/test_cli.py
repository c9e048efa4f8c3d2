"""The command line: every bad input is one clear error that leaves nothing behind; data on stdout, messages on stderr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from fvlaunch.cli import app
from fvlaunch.runs.directory import Run, create
from tests.support.isolation import isolate
from tests.support.paths import ROOT
from tests.support.plans import RECIPE
from tests.support.records import record

OTHER_DATA = ("--set", "train.data.prepare=null", "--set", "train.data.path=clips")


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


Call = Callable[..., Answer]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it but a recipe, away from the person's own settings and runs."""
    isolate(tmp_path, monkeypatch)
    write("own.yaml", RECIPE)
    return tmp_path


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    def run(*words: str) -> Answer:
        capfd.readouterr()
        code = app.run(list(words))
        out, err = capfd.readouterr()
        return Answer(code, out, err)

    return run


@pytest.fixture
def no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one command on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


def write(name: str, value: Any) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else yaml.safe_dump(value))
    return path


def make_run(name: str = "old", **changes: Any) -> Run:
    """A run as a submission leaves it, without a job."""
    return create(Path("runs") / name, record(name, **{"cluster": "local", **changes}))


@pytest.fixture
def finished(call: Call) -> Run:
    run = make_run(state="finished", job_id="local-1-1")
    shown = json.loads(call("show", "own.yaml", "--json").out)
    run.config_file.write_text(yaml.safe_dump({"recipe": shown["recipe"], "cluster": shown["cluster"]}))
    (run.checkpoints / "step-00000010").mkdir()
    return run


def refused(answer: Answer, what: str, where: str = "", hint: str = "") -> None:
    """One error with what, where and a hint, exit code 1, nothing on stdout, no traceback."""
    assert answer.code == 1, answer
    assert answer.out == ""
    assert "Traceback" not in answer.err
    assert answer.err.count("error: ") == 1 and answer.err.startswith("error: ")
    message, _, rest = answer.err.partition("\n")
    assert what in message
    assert where in rest.partition("hint: ")[0]
    assert hint in rest.partition("hint: ")[2] and "hint: " in rest


def nothing_made() -> None:
    assert not Path("runs").exists() and not Path("data").exists()
    assert not Path("home/state").exists()


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


@pytest.mark.parametrize("words", [["status"], ["wait"], ["attach"], ["logs"], ["stop"], ["cancel"], ["resume"]])
def test_an_unknown_run_is_one_error(call: Call, words: list[str]) -> None:
    make_run()
    refused(call(*words, "nope"), "no run is called 'nope'", "", "fvlaunch list runs")
    refused(call(*words, "./nope"), "./nope is not a run directory", "", "fvlaunch list runs")


@pytest.mark.parametrize("words", [["stop"], ["cancel"]])
def test_a_finished_run_cannot_be_ended(call: Call, finished: Run, words: list[str]) -> None:
    before = finished.record_file.read_bytes(), finished.intent_file.read_bytes()
    refused(call(*words, "old"), "old is finished already", "", "fvlaunch status old")
    assert (finished.record_file.read_bytes(), finished.intent_file.read_bytes()) == before


def test_a_finished_run_is_resumed_only_with_more_to_do(call: Call, finished: Run) -> None:
    refused(call("resume", "old", "--set", "train.max_steps=10"), "old is finished at step 10", "", "--set train.max_steps=20")
    assert finished.record().generation == 1


@pytest.mark.parametrize("state", ["stopped", "failed", "cancelled"])
def test_a_run_is_not_resumed_to_a_step_that_it_has_passed(call: Call, finished: Run, state: str) -> None:
    finished.update(state=state)
    refused(call("resume", "old", "--set", "train.max_steps=9"), "old has reached step 10 already, and max_steps is 9", "", "fvlaunch fork")
    assert finished.record().generation == 1 and finished.record().state == state


def test_a_log_without_a_line_says_where_the_losses_are(call: Call, finished: Run) -> None:
    log = finished.rank_log(1, 0)
    log.parent.mkdir()
    log.write_text("")
    finished.attempt_log(1).write_text("")
    answer = call("logs", "old")
    assert (answer.code, answer.out) == (0, "") and "nothing was logged" in answer.err and "metrics.jsonl has every step" in answer.err


def test_a_running_run_is_not_resumed(call: Call, finished: Run) -> None:
    from fvlaunch.schedulers.local_process import host_identity, local_job_id

    finished.update(state="submitted", job_id=local_job_id(os.getpid()), host=host_identity())
    refused(call("resume", "old"), "old is not over", "", "fvlaunch stop old")
    assert finished.record().generation == 1 and finished.intent().want == "run"


@pytest.mark.parametrize("word", ["train.seed=3", "train.data.global_batch_size=32", "train.method.weighting_scheme=logit_normal"])
def test_what_makes_a_run_is_frozen_at_resume(call: Call, finished: Run, word: str) -> None:
    before = finished.config_file.read_bytes()
    key = ".".join(word.split(".")[:2]).partition("=")[0]
    refused(call("resume", "old", "--set", word), f"{key} makes the run what it is", f"--set {word}: {key}", "submit it as a new run")
    assert finished.config_file.read_bytes() == before and finished.record().generation == 1


def test_grep_needs_a_regular_expression(call: Call, finished: Run) -> None:
    log = finished.rank_log(1, 0)
    log.parent.mkdir()
    log.write_text("step 1\nloss 2\n")
    finished.attempt_log(1).write_text("")
    refused(call("logs", "old", "--grep", "(("), "'((' is not a regular expression", "", "backslash")
    assert call("logs", "old", "--grep", "lo+ss").out == "loss 2\n"


def test_logs_of_a_missing_attempt_or_rank_say_which_there_are(call: Call, finished: Run) -> None:
    for rank in (0, 1, 3):
        log = finished.rank_log(1, rank)
        log.parent.mkdir(exist_ok=True)
        log.write_text("x\n")
    finished.attempt_log(1).write_text("")
    refused(call("logs", "old", "--attempt", "2"), "old has no attempt 2", "", "its attempts: 1")
    refused(call("logs", "old", "--rank", "2"), "old has no log of rank 2", "", "its ranks: 0-1, 3")
    refused(call("logs", "old", "--follow", "--attempt", "1"), "--follow shows the newest attempt", "", "leave out")


# What is printed where


def test_status_without_runs_is_an_empty_list_and_a_word_to_the_person(call: Call) -> None:
    answer = call("status")
    assert (answer.code, answer.out) == (0, "") and "no runs yet" in answer.err
    assert json.loads(call("status", "--json").out) == []
    assert json.loads(call("list", "runs", "--json").out) == []
    nothing_made()


def test_status_tells_runs_as_a_table_and_as_json(call: Call, finished: Run) -> None:
    answer = call("status")
    assert answer.err == "" and answer.out.splitlines()[1].split()[:2] == ["old", "finished"]
    [told] = json.loads(call("status", "old", "--json").out)
    wanted = {"run", "recipe", "cluster", "state", "reason", "step", "max_steps", "job_id", "job_ids", "attempts"}
    assert wanted | {"last_checkpoint_step", "updated_at"} <= told.keys()
    assert (told["run"], told["state"], told["last_checkpoint_step"]) == ("old", "finished", 10)


def test_one_unreadable_run_does_not_hide_the_others(call: Call, finished: Run) -> None:
    write("runs/broken/run.json", '{"name": "bro')
    write("runs/stray.txt", "no run")
    told = {one["run"]: one["state"] for one in json.loads(call("status", "--json").out)}
    assert told == {"old": "finished", "broken": "broken"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read anything")
def test_a_colleagues_run_in_a_shared_folder_does_not_hide_mine(call: Call, finished: Run) -> None:
    Path("runs/theirs").mkdir(mode=0)
    assert [told["run"] for told in json.loads(call("status", "--json").out)] == ["old"]


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
