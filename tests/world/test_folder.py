"""What lies in the folder in which somebody works: modules of other programs, and the user's own methods."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fvlaunch.schedulers.python_processes import module_command
from tests.support.foreign_modules import ForeignModules
from tests.support.launcher import Workspace, metrics
from tests.support.paths import ROOT
from tests.support.rows import row

METHOD = """
import helper
from trainers.methods.finetune import FineTuneMethod


class MyMethod(FineTuneMethod):
    def on_train_start(self):
        super().on_train_start()
        print("helper says", helper.VALUE, flush=True)
"""


class Folder(Workspace):
    """A working directory with a recipe for ./mine.py:MyMethod, a local cluster, and other people's modules; PYTHONPATH names somebody's
    package `trainers`, too."""

    def __init__(self, folder: Path) -> None:
        (folder / "work").mkdir()
        (folder / "lib/trainers").mkdir(parents=True)
        super().__init__(folder / "work")
        self.foreign = ForeignModules(self.folder, folder / "executed")
        (folder / "lib/trainers/__init__.py").write_text((self.folder / "signal.py").read_text())
        self.env["PYTHONPATH"] = f"{folder / 'lib'}:{ROOT}"
        method = {"kind": "./mine.py:MyMethod"}
        train = {"max_steps": 2, "method": method, "checkpoint": {"every_steps": 1}}
        self.write("short.yaml", {"extends": "./templates/recipes/tiny.yaml", "resources": {"ranks": 1}, "train": train})
        self.write("mine.py", METHOD)
        self.write("helper.py", "VALUE = 'one'\n")

    def run(self, *arguments: str, timeout_s: float = 240) -> subprocess.CompletedProcess[str]:
        """Run a command as the script in bin/ does: Python then has that folder on its path, not the working directory."""
        return subprocess.run(
            module_command(sys.executable, "fvlaunch", *arguments), cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Its run `mine` has done two steps."""
    here = Folder(tmp_path_factory.mktemp("folder"))
    done = here.run("submit", "./short.yaml", "--cluster", "here", "--name", "mine", "--wait")
    assert done.returncode == 0, done.stderr + here.told()
    return here


@row("32", "signal.py, random.py, yaml/, trainers/, fvlaunch/ ... in the working folder")
@row("33", "PYTHONPATH with somebody's package trainers")
def test_whatever_lies_in_the_working_folder_nothing_of_it_is_run(trained: Folder) -> None:
    assert len(metrics(trained.runs / "mine")) == 2
    assert [one["step"] for one in json.loads(trained.run("verify", "mine", "--json").stdout)] == [1, 2]
    assert "would be deleted" in trained.run("prune", "mine", "--keep-last", "1", "--dry-run").stdout
    assert trained.foreign.executed == []


@row("32", "verify and prune whose program could not look")
def test_verify_and_prune_never_say_that_there_is_no_checkpoint_where_they_could_not_look(trained: Folder) -> None:
    folder = trained.runs / "mine/checkpoints"
    kept = folder.rename(trained.runs / "mine/kept")
    folder.touch()
    answers = [trained.run(*words) for words in (("verify", "mine"), ("prune", "mine", "--keep-last", "1"))]
    folder.unlink()
    kept.rename(folder)
    for done in answers:
        assert done.returncode == 1 and "did not come to its end" in done.stderr and "no checkpoint" not in done.stderr


@row("-", "./mine.py:MyMethod edited or removed between submit and requeue")
def test_diff_and_a_repetition_know_what_method_a_run_has(trained: Folder) -> None:
    method = trained.folder / "mine.py"
    method.write_text(METHOD + "\n")
    differing = trained.run("diff", "mine", "./short.yaml", "--cluster", "here", "--json")
    method.rename(trained.folder / "moved.py")
    repeated = trained.run("submit", "runs/mine/run.yaml", "--dry-run")
    method.write_text(METHOD)
    assert "lock.code.mine.py" in [one["key"] for one in json.loads(differing.stdout) if one["a"] and one["b"]]
    assert repeated.returncode == 0, repeated.stderr


@row("-", "./mine.py:MyMethod edited or removed between submit and requeue")
@pytest.mark.long
def test_a_run_owns_its_method_and_what_it_imports(trained: Folder) -> None:
    trained.write("mine.py", METHOD.replace("helper says", "edited"))
    (trained.folder / "helper.py").unlink()
    done = trained.run("resume", "mine", "--set", "train.max_steps=4", "--wait")
    assert done.returncode == 0, done.stderr + trained.told()
    assert "mine.py is not as it was submitted; the run goes on with its copy" in done.stderr
    logs = [path.read_text() for path in sorted((trained.runs / "mine/logs").glob("*/rank-0000.log"))]
    assert len(logs) == 2 and all("helper says one" in text for text in logs) and not any("edited" in text for text in logs)
    assert trained.foreign.executed == []


MEASURED = {
    "resources": {"ranks": 1},
    "evaluate": {"kind": "shapes", "num_videos": 12, "rows": {"a": {"source": "runs/x", "num_steps": 2}}},
}
STAGES = [
    {"name": "first", "recipe": "./short.yaml"},
    {
        "name": "second",
        "recipe": "./short.yaml",
        "set": {"train.models.student.architecture": None, "train.models.student.init_from": {"stage": "first", "export": "live"}},
    },
    {"name": "measured", "recipe": "./measured.yaml", "set": {"evaluate.rows.a.source": {"stage": "second", "export": "live"}}},
]


@row("-", "./mine.py:MyMethod edited or removed between submit and requeue")
@row("32", "signal.py, random.py, yaml/, trainers/, fvlaunch/ ... in the working folder")
@pytest.mark.long
def test_a_pipelines_later_stages_own_the_method_that_was_submitted(trained: Folder) -> None:
    trained.write("mine.py", METHOD)
    trained.write("helper.py", "VALUE = 'one'\n")
    trained.write("measured.yaml", MEASURED)
    trained.write("stages.yaml", {"description": "two trainings, measured", "stages": STAGES})
    done = trained.run("submit", "./stages.yaml", "--cluster", "here", "--name", "stages")
    assert done.returncode == 0, done.stderr
    trained.write("mine.py", "raise SystemExit('edited')\n")
    (trained.folder / "helper.py").unlink()
    assert trained.run("wait", "stages", timeout_s=900).returncode == 0, trained.told()
    for stage in ("first", "second"):
        [log] = (trained.runs / f"stages/{stage}/logs").glob("*/rank-0000.log")
        assert "helper says one" in log.read_text()
    assert (trained.runs / "stages/measured/evaluation.json").is_file() and trained.foreign.executed == []


@row("32", "signal.py, random.py, yaml/, trainers/, fvlaunch/ ... in the working folder")
@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ("doctor", "--cluster", "here"),
        ("rehearse", "--cluster", "here", "--ranks", "1", "--steps", "10"),
        ("submit", "preprocess-text", "--cluster", "here", "--ranks", "1", "--set", "tiny=true", "--set", "preprocess.source=prompts.txt",
         "--set", "preprocess.output=embedded", "--wait"),
        ("submit", "./short.yaml", "--cluster", "telling", "--name", "telling", "--wait"),
    ],
    ids=lambda words: words[1] if words[0] == "submit" else words[0],
)  # fmt: skip
def test_no_other_program_of_ours_runs_what_lies_there(trained: Folder, words: tuple[str, ...]) -> None:
    trained.write("prompts.txt", "a cat\na dog\na cow\na hen\n")
    trained.write("mine.py", METHOD)
    trained.write("helper.py", "VALUE = 'one'\n")
    hook = {"on": ["finished"], "command": [sys.executable, "-c", "import json, sys; json.load(sys.stdin)"]}
    trained.write("clusters/telling.yaml", {"executor": "local", "paths": {"data": "data"}, "notify": hook})
    done = trained.run(*words)
    assert done.returncode == 0 and trained.foreign.executed == [], done.stderr + trained.told()
