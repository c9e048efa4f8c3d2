"""What editors and shells are told: JSON Schemas that agree with the loader, the line that names them, completion."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fvlaunch.cli import app
from fvlaunch.commands.editor_schemas import MODELINE
from fvlaunch.config import json_schema, strict_yaml
from tests.support.paths import ROOT

REFRESH = "for k in recipe cluster pipeline; do python -m fvlaunch schema $k >templates/schema/$k.json; done"
FOLDERS = {"recipe": "templates/recipes", "pipeline": "templates/pipelines", "cluster": "clusters"}
FILES = [(kind, path) for kind, folder in FOLDERS.items() for path in sorted((ROOT / folder).rglob("*.yaml"))]


@functools.cache
def schema(kind: Any) -> dict[str, Any]:
    return json_schema.schema(kind)


def wrong(kind: Any, text: str, tmp_path: Path) -> list[str]:
    (tmp_path / "f.yaml").write_text(text)
    return errors(kind, tmp_path / "f.yaml")


def errors(kind: Any, path: Path) -> list[str]:
    return [f"{e.json_path}: {e.message}" for e in jsonschema.Draft7Validator(schema(kind)).iter_errors(strict_yaml.read(path).plain)]


@pytest.mark.parametrize("kind", json_schema.KINDS)
def test_the_shipped_schema_is_up_to_date(kind: Any) -> None:
    jsonschema.Draft7Validator.check_schema(json_schema.schema(kind))
    assert (ROOT / f"templates/schema/{kind}.json").read_text() == json_schema.text(kind), f"refresh: {REFRESH}"


@pytest.mark.parametrize(("kind", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_every_shipped_file_names_its_schema_and_follows_it(kind: str, path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(MODELINE), "an editor finds the schema by the first line"
    assert (path.parent / first.removeprefix(MODELINE)).resolve() == ROOT / f"templates/schema/{kind}.json"
    assert errors(kind, path) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("recipe", "train: {max_step: 5}"),
        ("recipe", "train: {max_steps: many}"),
        ("recipe", "train: {method: {kind: dmd2, denoising_step: [1]}}"),
        ("recipe", "train: {models: {student: {family: wan, init_form: x}}}"),
        ("recipe", "resources: {ranks: 0}"),
        ("recipe", "nothing: 1"),
        ("cluster", "executor: pbs"),
        ("cluster", "slurm: {nodes: 4}"),
        ("cluster", "slurm: {partition: [a]}"),
        ("cluster", "limits: {crashs: 1}"),
        ("cluster", "notify: {on: [exploded], command: x}"),
        ("pipeline", "stages: []"),
        ("pipeline", "stages: [{name: a}]"),
        ("pipeline", "stages: [{name: a, recipe: b, sets: {}}]"),
    ],
)
def test_what_the_loader_refuses_is_underlined(kind: str, text: str, tmp_path: Path) -> None:
    assert wrong(kind, text, tmp_path)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("recipe", "extends: [dmd2, mine]\ntrain: {max_steps: null, callbacks: {ema: null}}"),
        ("recipe", "resources: {time: 60}\ntrain: {method: {kind: './mine.py:Mine', anything: 1}}"),
        ("recipe", "train: {data: {path: {'${paths.data}/a': 2, b: 1}}}"),
        ("cluster", "slurm: {time: 60, exclusive: true, gpus-per-node: 'a100:8', mem: 900G}\nenv: {A: 1, B: x}"),
        ("cluster", "notify: {command: mail me}\nsecrets: [WANDB_API_KEY]"),
        ("pipeline", "stages: [{name: a, recipe: b, set: {train.max_steps: 5, x.y: {stage: c, export: ema}}}]"),
    ],
)
def test_what_the_loader_takes_is_not(kind: str, text: str, tmp_path: Path) -> None:
    assert wrong(kind, text, tmp_path) == []


def test_each_key_says_what_it_means() -> None:
    train = json_schema.schema("recipe")["definitions"]["TrainConfig"]["properties"]
    assert "S(u)" in train["flow_shift"]["description"]
    dmd2 = next(d for d in json_schema.schema("recipe")["definitions"].values() if "denoising_steps" in d.get("properties", {}))
    assert "descending" in dmd2["properties"]["denoising_steps"]["description"]
    assert "a new job" in json_schema.schema("cluster")["properties"]["continue_by"]["description"]


def test_a_persons_own_files_find_the_schema_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert app.run(["schema", "cluster", "--install"]) == 0
    copied = tmp_path / "fvlaunch/clusters/mine.yaml"
    copied.parent.mkdir()
    copied.write_text((ROOT / "clusters/example-slurm.yaml").read_text())
    named = copied.parent / copied.read_text().splitlines()[0].removeprefix(MODELINE)
    assert json.loads(named.read_text())["title"] == "fvlaunch cluster" and MODELINE in capsys.readouterr().err
    assert app.run(["schema", "nothing"]) == 1


def completed(folder: Path, *words: str) -> list[str]:
    typed = {"_FVLAUNCH_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(["fvlaunch", *words]), "COMP_CWORD": str(len(words))}
    env = {**os.environ, **typed, "XDG_STATE_HOME": str(folder / "state"), "XDG_CONFIG_HOME": str(folder / "config")}
    path = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
    argv = [sys.executable, "-m", "fvlaunch"]
    return subprocess.run(argv, env={**env, "PYTHONPATH": path}, cwd=folder, capture_output=True, text=True, check=False).stdout.split()


def test_the_shell_completes_commands_recipes_pipelines_clusters_and_runs(tmp_path: Path) -> None:
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters/lab.yaml").write_text("executor: slurm\n")
    (tmp_path / "runs/first").mkdir(parents=True)
    (tmp_path / "runs/first/run.json").write_text("{}")
    assert completed(tmp_path, "reh") == ["rehearse"]
    assert completed(tmp_path, "submit", "dmd2-v") == ["dmd2-vsa", "dmd2-vsa-14b"]
    assert "shapes" in completed(tmp_path, "submit", "shapes")
    assert set(completed(tmp_path, "submit", "dmd2", "--cluster", "l")) == {"lab", "local"}
    assert completed(tmp_path, "stop", "fi") == ["first"]
    (tmp_path / "runs/first/run.json").write_text("{broken")
    assert completed(tmp_path, "stop", "fi") == ["first"]  # as `status` lists it; what is wrong is said when it is named


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_given_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["completion", shell]) == 0
    assert "_FVLAUNCH_COMPLETE" in capsys.readouterr().out
    assert app.run(["completion", "tcsh"]) == 1
