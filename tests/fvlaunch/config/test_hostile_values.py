"""FAULTS.md's hostile values: what reaches a batch script is refused or arrives whole, and nothing of it is ever run."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from fvlaunch.config.compose import compose
from fvlaunch.config.values import check_run_name
from fvlaunch.errors import ConfigError, FvlaunchError, Place
from fvlaunch.lifecycle import job_specs
from fvlaunch.planning.plan import Plan, make_plan
from fvlaunch.runs.directory import Run
from tests.support.rows import Figures, fault

TOKEN = "0123456789abcdef"
PIECES = (
    "$(touch CANARY)", "`touch CANARY`", ";touch CANARY;", "|touch CANARY", "&touch CANARY&", "'", '"', "''", '"$(touch CANARY)"', "\\",
    "\\'", "'$(touch CANARY)'", "\n", "\r\n", "\ntouch CANARY\n", "\n#SBATCH --wrap=x\n", "\x00", "\x1b[2J", "\x7f", "\u2028touch CANARY",
    "\u202e", "#", "!!", "!touch", "*", "?", "~", "[a]", "{a,b}", "{{ 7*7 }}", "{% include 'x' %}", "$HOME", "${IFS}", "$((1))",
    "<(touch CANARY)",    ">CANARY", "<<EOF", "EOF", " ", "\t", "-", "--wrap=touch CANARY", "=", ",", "%j", "%%", "é", "日本",
    "a", "b1", "/", "..", "\\\n",
    "\ufeff", "()", "() { :;}; touch CANARY", "2>&1", "||", "&&", ":",
)  # fmt: skip
FIELDS = ("comment", "constraint", "licenses", "mail-user", "prefer", "env", "srun", "python", "partition", "account")


def hostile(rng: random.Random) -> str:
    return "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 5)))


def profile(values: dict[str, str]) -> dict[str, Any]:
    slurm = {key: value for key, value in values.items() if key not in ("env", "srun", "python")}
    made: dict[str, Any] = {"executor": "slurm", "paths": {"data": "/data"}, "slurm": {"time": 60, **slurm}}
    made |= {"env": {"VALUE": values["env"]}} if "env" in values else {}
    made |= {"srun_args": [f"--x={values['srun']}"]} if "srun" in values else {}
    return made | ({"python": f"/opt/{values['python']}/python"} if "python" in values else {})


def plan_of(folder: Path, values: dict[str, str]) -> tuple[Plan | None, set[str]]:
    """The plan, and the fields whose value was refused (each with its place and no traceback)."""
    refused: set[str] = set()
    keys = {"env": "VALUE", "srun": "srun_args[0]", "python": "python"}
    for _ in range(len(values) + 1):
        left = {key: value for key, value in values.items() if key not in refused}
        lines = json.dumps(profile(left), indent=1).split("\n")  # YAML too, and each value on one line
        (folder / "clusters/lab.yaml").write_text("\n".join(lines))
        try:
            composed = compose("own.yaml", "lab", cwd=folder)
            return make_plan(composed, now=datetime(2026, 1, 1), cwd=folder, name="r", runs_dir=folder / "runs"), refused
        except ConfigError as error:
            told = [problem.key or lines[(problem.where or Place("", 1)).line - 1] for problem in error.problems]
            wrong = {f for f in left for text in told if keys.get(f, f) in text or (f == "srun" and text.strip().startswith('"--x'))}
            assert wrong and all(problem.where is not None for problem in error.problems), error
            refused |= wrong
    return None, refused


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("work/clusters", "work/bin", "cwd"):
        (tmp_path / name).mkdir(parents=True)
    work = tmp_path / "work"
    own = "extends: base/shapes\ntrain: {max_steps: 5, method: {kind: finetune}, optimizers: {student: {kind: adamw, lr: 1e-3}}}\n"
    (work / "own.yaml").write_text(own)
    srun = work / "bin/srun"
    said = '[ ! -d "${!#}" ] || : >"${!#}/said.7.0"'  # as the head agent does when it ends in order
    srun.write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" >{work}/argv\nprintf "%s" "$VALUE" >{work}/value\n{said}\n')
    srun.chmod(0o755)
    return work


def run_script(text: str, folder: Path) -> list[str]:
    env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "SLURM_JOB_ID": "7", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash"], input=text.encode(), cwd=folder.parent / "cwd", env=env, capture_output=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return (folder / "argv").read_bytes().decode().split("\0")[:-1]


def trial(folder: Path, rng: random.Random) -> tuple[int, int]:
    """(values that arrived whole, values that were refused) of one script in which every field is hostile."""
    values = {field: hostile(rng) for field in FIELDS}
    plan, refused = plan_of(folder, values)
    assert plan is not None
    run = Run(plan.path)
    job = run.job / TOKEN
    job.mkdir(parents=True, exist_ok=True)
    (job / "submitted.pkl").touch()
    text = job_specs.batch_script(run, plan, TOKEN) or ""
    words = [shlex.split(line[8:]) for line in text.splitlines() if line.startswith("#SBATCH ")]
    options = dict(word.removeprefix("--").partition("=")[::2] for [word] in words)
    argv = run_script(text, folder)
    for field in values.keys() - refused:
        whole = {
            "env": lambda: (folder / "value").read_bytes().decode() == values["env"],
            "srun": lambda: f"--x={values['srun']}" in argv,
            "python": lambda: os.path.normpath(f"/opt/{values['python']}/python") in argv,
            "comment": lambda: options["comment"] == f"{values['comment']} fvlaunch:{TOKEN}",
        }.get(field, lambda field=field: options[field] == values[field])
        assert whole(), (field, values[field], text)
    assert not any(re.search(r"[\x00-\x08\x0a-\x1f\x7f]", values[field]) for field in values.keys() - refused)
    return len(values) - len(refused), len(refused)


def trials(folder: Path, num_values: int, seed: int, figure: Figures) -> None:
    rng, whole, refused = random.Random(seed), 0, 0
    while whole + refused < num_values:
        arrived, not_taken = trial(folder, rng)
        whole, refused = whole + arrived, refused + not_taken
    assert not list(folder.parent.rglob("CANARY*"))
    assert min(whole, refused) > num_values / 10  # a test that refuses all, or nothing, shows nothing
    figure.count("refused, or arrived whole and ran nothing", whole + refused, whole + refused)


@fault("H1", "values of every key of the batch script, rendered and run")
@fault("H2", "the same values, those that may be written")
def test_hundreds_of_hostile_values_run_nothing(folder: Path, figure: Figures) -> None:
    trials(folder, 400, 1, figure)


@fault("H1", "values of every key of the batch script, rendered and run")
@fault("H2", "the same values, those that may be written")
@pytest.mark.long
def test_ten_thousand_hostile_values_run_nothing(folder: Path, figure: Figures) -> None:
    trials(folder, 10_000, 2, figure)


def test_the_canary_is_one(folder: Path) -> None:
    """A value that were not quoted would be seen."""
    run_script("srun x\n$(touch CANARY)\n", folder)
    assert list(folder.parent.rglob("CANARY*"))


@fault("H6", "names of runs")
@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/abs", "-rf", "a b", "a\nb", "a%j", "$(x)", "é", "a" * 200, ".hidden", "a;b"])
def test_a_run_cannot_be_called_what_is_no_plain_name(name: str) -> None:
    with pytest.raises(ValueError):
        check_run_name(name)


@fault("H6", "symlinks and `..` in recipes and extends")
def test_a_link_that_leads_out_of_a_folder_of_recipes_is_refused(folder: Path) -> None:
    outside = folder.parent / "outside.yaml"
    outside.write_text("extends: base/shapes\n")
    (folder / "templates/recipes").mkdir(parents=True)
    (folder / "templates/recipes/linked.yaml").symlink_to(outside)
    with pytest.raises(FvlaunchError, match="leads out of"):
        compose("linked", "local", cwd=folder)
    (folder / "templates/recipes/up.yaml").write_text("extends: ../../../outside.yaml\n")
    with pytest.raises(FvlaunchError, match="leads out of"):
        compose("up", "local", cwd=folder)


@fault("H8", "python, srun_args and slurm of a run.yaml")
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("python", "-c\nimport os"),
        ("srun_args", ["--x=1\ntouch CANARY"]),
        ("slurm", {"comment": "a\nb"}),
        ("slurm", {"wrap": "touch CANARY"}),
    ],
)
def test_a_tampered_run_yaml_is_refused_before_anything_of_it_is_used(folder: Path, key: str, value: Any) -> None:
    from fvlaunch.runs.run_config import load

    plan, _ = plan_of(folder, {})
    assert plan is not None
    plan.path.mkdir(parents=True)
    cluster = {**plan.cluster, key: value}
    (plan.path / "run.yaml").write_text(yaml.safe_dump({"recipe": plan.recipe, "cluster": cluster}))
    with pytest.raises(ConfigError) as caught:
        load(Run(plan.path))
    assert caught.value.where is not None and "run.yaml" in caught.value.where.file
