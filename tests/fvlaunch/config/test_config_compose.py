"""What wins over what, what extends what, where each value came from, and that all errors come at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fvlaunch.config import strict_yaml
from fvlaunch.config.compose import Composed, compose
from fvlaunch.config.merge import merge, overlay
from fvlaunch.errors import ConfigError, FvlaunchError, NotFound, render
from tests.support.configuration import RECIPE, Write, problems


def _at(found: Composed, path: str) -> Any:
    value: Any = {**found.recipe_data, "cluster": found.cluster_data}
    for key in path.split("."):
        value = value[key]
    return value


def test_every_leaf_has_an_origin(write: Write, here: Path) -> None:
    write("b.yaml", RECIPE)
    write("r.yaml", "extends: ./b.yaml\ntrain: {seed: 3}\n")
    found = compose("r.yaml", cwd=here, sets=["train.flow_shift=5", "cluster.limits.crashes=1"])
    origins = {".".join(map(str, path)): origin for path, origin in found.origins.items()}
    assert origins["train.seed"] == "r.yaml:2"
    assert origins["train.max_steps"] == "b.yaml:3"
    assert origins["train.optimizers.student.lr"] == "b.yaml:8"
    assert origins["train.optimizers.student.betas"] == "default"
    assert origins["train.flow_shift"] == origins["cluster.limits.crashes"] == "--set"
    assert origins["cluster.executor"].endswith("clusters/local.yaml:3")
    assert all(not isinstance(_at(found, path), dict) or _at(found, path) == {} for path in origins)


def test_what_is_printed_parses_back_to_the_same(write: Write, here: Path) -> None:
    found = compose("r.yaml", cwd=here)
    write(
        "run/run.yaml",
        json.dumps({"recipe": found.recipe_data, "cluster": found.cluster_data, "lock": {"recipe": "mine", "cluster": "lab"}}),
    )
    again = compose("run/run.yaml", cwd=here.parent / "work")
    assert (again.recipe, again.cluster, again.recipe_name, again.cluster_name) == (found.recipe, found.cluster, "mine", "lab")
    assert again.lock == {"recipe": "mine", "cluster": "lab"}
    other = compose("run/run.yaml", "example-slurm", cwd=here, environment={"USER": "me"}, sets=["train.seed=4"])
    assert (other.cluster.executor, other.recipe.train.seed, other.recipe.train.max_steps) == ("slurm", 4, 10)


def test_a_run_can_move_to_a_cluster_with_other_folders(write: Write, here: Path) -> None:
    write("clusters/lab.yaml", "executor: slurm\npaths: {data: /lab}\n")
    found = compose("r.yaml", cwd=here)
    assert found.recipe.train.data.path == str(here / "data/x")
    write("run.yaml", json.dumps({"recipe": found.recipe_asked, "cluster": found.cluster_data}))
    assert compose("run.yaml", "lab", cwd=here).recipe.train.data.path == "/lab/x"


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ("{a: {x: 1, y: 2}}", "{a: {y: 3}}", {"a": {"x": 1, "y": 3}}),
        ("{a: [1, 2, 3]}", "{a: [4]}", {"a": [4]}),
        ("{a: {x: 1}}", "{a: ~}", {"a": None}),
        ("{a: ~}", "{a: {x: 1}}", {"a": {"x": 1}}),
        ("{a: {x: 1}}", "{a: 2}", {"a": 2}),
        ("{a: {kind: p, x: 1}}", "{a: {kind: q, y: 2}}", {"a": {"kind": "q", "y": 2}}),
        ("{a: {kind: p, x: 1}}", "{a: {kind: p, y: 2}}", {"a": {"kind": "p", "x": 1, "y": 2}}),
        ("{a: {kind: p, x: 1}}", "{a: {y: 2}}", {"a": {"kind": "p", "x": 1, "y": 2}}),
        ("{a: {x: 1}}", "{a: {kind: q}}", {"a": {"x": 1, "kind": "q"}}),
        ("{a: {family: p, x: {z: 1}}}", "{a: {family: q}}", {"a": {"family": "q"}}),
    ],
)
def test_mappings_merge_lists_replace_nulls_reset_kinds_clear(base: str, over: str, merged: Any) -> None:
    assert merge(strict_yaml.parse(base, "b"), strict_yaml.parse(over, "o")).plain == merged


def test_later_bases_win_over_earlier_ones_and_the_file_over_all(write: Write, here: Path) -> None:
    write("a.yaml", RECIPE + "  seed: 1\n  flow_shift: 1\n  precision: fp32\n")
    write("b.yaml", "train: {seed: 2, flow_shift: 2}\n")
    write("c.yaml", "extends: [./a.yaml, ./b.yaml]\ntrain: {seed: 3}\n")
    train = compose("c.yaml", cwd=here).recipe.train
    assert (train.seed, train.flow_shift, train.precision) == (3, 2, "fp32")


def test_a_file_that_extends_its_own_name_gets_the_next_one(write: Write, here: Path) -> None:
    write("templates/recipes/shapes-finetune.yaml", "extends: shapes-finetune\ntrain: {seed: 7}\n")
    write("../config/fvlaunch/templates/recipes/shapes-finetune.yaml", "extends: shapes-finetune\ntrain: {seed: 8, max_steps: 8}\n")
    train = compose("shapes-finetune", cwd=here).recipe.train
    assert (train.seed, train.max_steps, train.data.global_batch_size) == (7, 8, 64)


def test_a_cluster_can_extend_too(write: Write, here: Path) -> None:
    write("clusters/local.yaml", "extends: local\nlimits: {crashes: 9}\n")
    found = compose("r.yaml", cwd=here).cluster
    assert (found.executor, found.limits.crashes) == ("local", 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: ./r.yaml", "circle"),
        ("extends: ./other.yaml", "circle"),
        ("extends: nope", "no recipe is called"),
        ("extends: ./nope.yaml", "does not exist"),
        ("extends: ../outside.yaml", "leads out of"),
        ("extends: /etc/passwd.yaml", "leads out of"),
        ("extends: a/../../b", "cannot name a recipe"),
        ("extends: 3", "a name or a list of names"),
        ("extends: {a: b}", "a name or a list of names"),
        ("extends: [[a]]", "a name or a list of names"),
        ("extends: ./link.yaml", "leads out of"),
    ],
)
def test_extends_that_cannot_be_followed_says_where(write: Write, here: Path, text: str, message: str) -> None:
    write("other.yaml", "extends: ./r.yaml\n")
    write("../outside.yaml", RECIPE)
    (here / "link.yaml").symlink_to(here.parent / "outside.yaml")
    write("r.yaml", f"description: x\n{text}\n")
    (problem,) = problems("r.yaml", cwd=here)
    assert message in problem.message and problem.key == "extends" and problem.where is not None and problem.where.line in (1, 2)


def test_a_name_that_only_it_has_cannot_extend_itself(write: Write, here: Path) -> None:
    write("templates/recipes/solo.yaml", "extends: solo\n")
    assert "no other recipe" in problems("solo", cwd=here)[0].message


def test_a_bomb_of_bases_is_refused(write: Write, here: Path) -> None:
    write("b0.yaml", RECIPE)
    for i in range(1, 20):
        write(f"b{i}.yaml", f"extends: [./b{i - 1}.yaml, ./b{i - 1}.yaml]\n")
    assert "more than 50 files" in problems("b19.yaml", cwd=here)[0].message


def test_extends_of_nothing_is_nothing(write: Write, here: Path) -> None:
    write("r.yaml", "extends:\n" + RECIPE)
    assert compose("r.yaml", cwd=here).recipe.train.max_steps == 10


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3), ("a.b=1e-5", 1e-5), ("a.b=no", "no"), ("a.b=24:00:00", "24:00:00"), ("a.b=", None), ("a.b=null", None),
        ("a.b=[0, .99]", [0, 0.99]), ("a.b={x: 1}", {"x": 1}), ("a.b='x y'", "x y"), ('a.b="a # b"', "a # b"), ("a.b=/x=y", "/x=y"),
        ("a.b=${paths.x}/y", "${paths.x}/y"), (" a.b = 3 ", 3),
    ],
)  # fmt: skip
def test_set_reads_one_yaml_value(text: str, value: Any) -> None:
    assert overlay([text]).plain == {"a": {"b": value}}


@pytest.mark.parametrize(
    "text",
    [
        "a", "=3", "a..b=3", ".a=1", "a.=1", "a=x: y", "a=- x", "a=[1", "a='", "a=x # y", "a=!!str x", "a=x\x1by", "a=\udcff", "a=&a [*a]",
        "a." * 30 + "b=1", "a={b: 1, b: 2}",
    ],
)  # fmt: skip
def test_a_set_that_is_not_one_value_is_refused_and_quoted_back(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        overlay([text])
    assert str(caught.value.where) == f"--set {text}"
    assert render(caught.value).startswith("error: ")


def test_sets_build_one_layer_whatever_their_order(write: Write, here: Path) -> None:
    sets = [
        "train.optimizers.student.lr=0.02",
        "train.optimizers.student.rest={kind: adamw, lr: 1e-3}",
        "train.optimizers.student.kind=muon",
    ]
    for order in (sets, sets[::-1]):
        assert compose("r.yaml", cwd=here, sets=order).recipe.train.optimizers["student"].lr == 0.02
    assert compose("r.yaml", cwd=here, sets=["train.seed=1", "train.seed=2"]).recipe.train.seed == 2


def test_set_wins_over_the_clusters_defaults_and_those_over_the_recipe(write: Write, here: Path) -> None:
    write("r.yaml", RECIPE.replace("{ranks: 2}", "{ranks: 2, threads_per_rank: 1, time: 10}"))
    write("clusters/lab.yaml", "executor: slurm\nresources: {threads_per_rank: 4, time: 20}\npaths: {data: /d}\n")
    found = compose("r.yaml", "lab", cwd=here, sets=["resources.time=30"])
    assert (found.recipe.resources.ranks, found.recipe.resources.threads_per_rank, found.recipe.resources.time) == (2, 4, "00:30:00")
    assert found.origins[("resources", "threads_per_rank")] == "clusters/lab.yaml:2"


@pytest.mark.parametrize("value", ["3", "[a]", "x"])
def test_a_cluster_cannot_be_set_to_a_word(write: Write, here: Path, value: str) -> None:
    (problem,) = problems("r.yaml", cwd=here, sets=[f"cluster={value}"])
    assert problem.key == "cluster"


def test_a_null_resets_to_the_default_unless_null_is_a_value(write: Write, here: Path) -> None:
    write("b.yaml", RECIPE + "  seed: 1\n  checkpoint: {every_steps: 5, keep_last: 9}\n  callbacks: {ema: {decay: .5}}\n")
    sets = ["train.seed=null", "train.checkpoint.every_steps=null", "train.checkpoint.keep_last=null", "train.callbacks.grad_clip=null"]
    found = compose("b.yaml", cwd=here, sets=[*sets, "resources=null", "train.callbacks.ema.start_step=null"])
    train = found.recipe.train
    assert (train.seed, train.checkpoint.every_steps, train.checkpoint.keep_last) == (1000, None, 3)
    assert train.callbacks.grad_clip is None and train.callbacks.ema is not None and train.callbacks.ema.start_step == 0
    assert found.recipe.resources.ranks == 1 and found.origins[("train", "seed")] == "default"
    assert found.origins[("train", "callbacks", "grad_clip")] == "--set"


def test_a_null_where_something_must_be_is_told_as_missing(write: Write, here: Path) -> None:
    (problem,) = problems("r.yaml", cwd=here, sets=["train.max_steps=null"])
    assert (problem.message, problem.key, problem.hint) == ("'max_steps' is missing", "train.max_steps", "add train.max_steps")


@pytest.mark.parametrize(
    ("setting", "path", "value"),
    [
        ("train.deterministic=yes", "train.deterministic", True),
        ("train.deterministic=off", "train.deterministic", False),
        ("train.max_steps='12'", "train.max_steps", 12),
        ("resources.time=90", "resources.time", "01:30:00"),
        ("train.optimizers.student.lr=2e-6", "train.optimizers.student.lr", 2e-6),
        ("train.callbacks.ema={decay: .9}", "train.callbacks.ema.decay", 0.9),
        ("train.method={kind: ./mine.py:Mine, my_knob: 3}", "train.method.my_knob", 3),
    ],
)
def test_what_people_write_is_understood(write: Write, here: Path, setting: str, path: str, value: Any) -> None:
    assert _at(compose("r.yaml", cwd=here, sets=[setting]), path) == value


def test_relative_folders_lie_under_the_working_directory(write: Write, here: Path) -> None:
    sets = [
        "train.data.path=d/x",
        "train.models.student={init_from: ./weights}",
        "train.callbacks.validation={model: ./decoder, loss: {path: held/out}}",
        "cluster.python=.venv/bin/python",
        "cluster.runs_dir=~/runs",
    ]
    found = compose("r.yaml", cwd=here, sets=sets)
    assert found.recipe.train.data.path == str(here / "d/x")
    assert _at(found, "train.models.student.init_from") == str(here / "weights")
    assert _at(found, "train.callbacks.validation.loss.path") == str(here / "held/out")
    assert _at(found, "train.callbacks.validation.model") == str(here / "decoder")
    assert found.cluster.python == str(here / ".venv/bin/python")
    assert found.cluster.runs_dir == str(Path.home() / "runs")
    assert found.cluster.paths == {"scratch": str(here), "data": str(here / "data"), "models": str(here / "models")}
    assert (
        _at(compose("r.yaml", cwd=here, sets=["train.models.student={init_from: Org/Model}"]), "train.models.student.init_from")
        == "Org/Model"
    )
    assert compose("r.yaml", cwd=here, sets=["cluster.python=python3"]).cluster.python == "python3"


@pytest.mark.parametrize("setting", ["{}", "{loss: null}", "{loss: {path: null}}", "{model: Org/Model}", "{model: shapes}"])
def test_validation_without_a_folder_of_its_own_stays_as_written(write: Write, here: Path, setting: str) -> None:
    validation = compose("r.yaml", cwd=here, sets=[f"train.callbacks.validation={setting}"]).recipe.train.callbacks.validation
    assert validation.model in (None, "Org/Model", "shapes") and (validation.loss is None or validation.loss.path is None)


def test_variables_are_read_in_clusters_only_and_paths_once(write: Write, here: Path) -> None:
    write("clusters/lab.yaml", "executor: slurm\nruns_dir: ${paths.data}/runs\npaths: {data: '/s/${USER}'}\nenv: {WHO: '${USER}'}\n")
    found = compose("r.yaml", "lab", cwd=here, environment={"USER": "${paths.data}"})
    assert found.cluster.paths == {"data": "/s/${paths.data}"} and found.cluster.env == {"WHO": "${paths.data}"}
    assert found.cluster.runs_dir == "/s/${paths.data}/runs"
    (problem,) = problems("r.yaml", "lab", cwd=here, environment={"USER": "me"}, sets=["train.data.path=/x/${USER}"])
    assert "cluster files only" in problem.hint


def test_a_line_break_in_a_variable_is_refused(write: Write, here: Path) -> None:
    write("clusters/lab.yaml", "executor: slurm\npaths: {data: '/s/${EVIL}'}\n")
    found = problems("r.yaml", "lab", cwd=here, environment={"EVIL": "x\ntouch /tmp/y"})
    assert {problem.key for problem in found} == {"cluster.paths.data", "train.data.path"}


def test_contradictions_have_places(write: Write, here: Path) -> None:
    found = compose("r.yaml", cwd=here, sets=["train.data.num_frames=20", "train.optimizers.critic={kind: adamw, lr: 1}"])
    told = [(str(problem.where), problem.key) for problem in found.cross_check(3)]
    assert sorted(told) == [
        ("--set train.data.num_frames=20", "train.data.num_frames"),
        ("--set train.optimizers.critic={kind: adamw, lr: 1}", "train.optimizers.critic"),
        ("r.yaml:6", "train.data.global_batch_size"),
    ]


def test_unknown_names_are_not_found(write: Write, here: Path) -> None:
    for recipe, cluster in (("nope", None), ("r.yaml", "nope"), ("nope.yaml", None)):
        with pytest.raises(NotFound):
            compose(recipe, cluster, cwd=here)


@pytest.mark.parametrize("cluster", ["local", "example-slurm"])
def test_the_shipped_files_resolve(here: Path, write: Write, cluster: str) -> None:
    found = compose("shapes-finetune", cluster, cwd=here, environment={"USER": "me"})
    assert found.cross_check(found.recipe.resources.ranks) == []
    assert found.recipe.description and found.cluster.description


_KEYS = st.sampled_from(
    [
        "train",
        "max_steps",
        "method",
        "kind",
        "models",
        "student",
        "data",
        "optimizers",
        "lr",
        "cluster",
        "slurm",
        "env",
        "paths",
        "a",
        "b-c",
    ]
)
_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=10),
    st.sampled_from(["finetune", "adamw", "${paths.data}", "${X}", "${", "local", "1:00"]),
)  # fmt: skip
_TREES = st.recursive(_VALUES, lambda sub: st.one_of(st.lists(sub, max_size=3), st.dictionaries(_KEYS, sub, max_size=4)), max_leaves=12)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_KEYS, _TREES, max_size=4), st.lists(st.tuples(st.lists(_KEYS, min_size=1, max_size=4), _TREES), max_size=2))
def test_any_tree_composes_or_is_told_in_words(tmp_path_factory: pytest.TempPathFactory, tree: Any, sets: Any) -> None:
    here = tmp_path_factory.mktemp("fuzz")
    (here / "b.yaml").write_text(RECIPE)
    (here / "r.yaml").write_text(json.dumps({**tree, "extends": "./b.yaml"}))
    (here / "c.yaml").write_text(json.dumps({"executor": "local", "paths": {"data": "/d"}, **tree}))
    try:
        compose("r.yaml", "c.yaml", cwd=here, sets=[f"{'.'.join(keys)}={json.dumps(value)}" for keys, value in sets])
    except FvlaunchError as error:
        assert error.exit_code == 1 and render(error)
