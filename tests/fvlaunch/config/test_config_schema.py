"""What a cluster profile may say, checked through the same path that files take."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fvlaunch.config import sbatch_options, strict_yaml
from fvlaunch.config.schema import Cluster
from fvlaunch.config.validate import validate
from fvlaunch.errors import ConfigError, Problem


def _cluster(text: str) -> Cluster:
    return validate(Cluster, strict_yaml.parse("executor: slurm\n" + text, "c.yaml"), "cluster")[0]


def _problems(text: str) -> list[Problem]:
    with pytest.raises(ConfigError) as caught:
        _cluster(text)
    return list(caught.value.problems)


def test_humans_booleans_times_and_numbers_are_understood() -> None:
    found = _cluster("slurm: {exclusive: yes, contiguous: no, hold: on, time: 1-12:00:00, mem: 900G, nice: 100, time-min: 90}")
    assert found.slurm == {"exclusive": True, "hold": True, "time": "1-12:00:00", "mem": "900G", "nice": 100, "time-min": "01:30:00"}
    assert _cluster("slurm: {time: 24:00:00}").slurm["time"] == "1-00:00:00"


def test_a_null_gives_the_default() -> None:
    found = _cluster("slurm: {time: ~}\nenv: {A: ~, B: 1}\nlimits:\nsrun_args:\nsetup:\npaths: {x: ~}")
    assert (found.slurm, found.env, found.limits.crashes, found.srun_args, found.setup, found.paths) == ({}, {"B": "1"}, 3, [], "", {})


@pytest.mark.parametrize("option", sorted(sbatch_options.REFUSED))
def test_options_that_fvlaunch_sets_are_refused_with_the_reason(option: str) -> None:
    (problem,) = _problems(f"slurm:\n  {option}: 1\n")
    word = "not taken" if option in sbatch_options.UNKNOWN_HERE else "set"
    assert problem.message == f"{option} is {word} by fvlaunch" and problem.hint == sbatch_options.REFUSED[option]
    assert problem.key == f"cluster.slurm.{option}" and problem.where == strict_yaml.Place("c.yaml", 3, 3)


def test_a_comment_is_the_users_own() -> None:
    assert _cluster("slurm: {comment: my project}").slurm == {"comment": "my project"}


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("gpus_per_node", "gpus-per-node"), ("p", "partition"), ("-t", "time"), ("--account", "account"), ("partiton", "partition"),
        ("walltime", "time"), ("cpus-per-tasks", "cpus-per-task"),
    ],
)  # fmt: skip
def test_other_spellings_are_answered_with_the_long_name(option: str, meant: str) -> None:
    (problem,) = _problems(f"slurm: {{'{option}': 1}}")
    assert problem.hint == f"did you mean {meant}?"


@pytest.mark.parametrize(
    "text",
    [
        "partition: 'a b'", "partition: -x", "account: 'a;b'", "account: $(x)", "qos: ''", "mem: lots", "cpus-per-task: 0",
        "cpus-per-task: -1",
        "gpus-per-node: 8x", "gres: 'gpu:a:2(S:0-1)'", "gres: help", "gres: 'nvme:1, gpu:2'", "gpus: '2,'", "gpus-per-task: 'gpu:2'",
        "tres-per-node: gres/gpu:2", "clusters: other", "export: 'ALL,WANDB_API_KEY=abc'", "export: 'HOME LANG'", "export: 'HOME, LANG'",
        "export: 'HOME,,LANG'", "export: 'A=b c,D E=f'",
        "nodelist: 'a b'", "exclude: '`x`'", "time: 24h", "time: -1", "contiguous: maybe", "partition: true",
        "partition: [a]", "comment: {a: b}", "comment: 1.5", 'comment: "a\\tb"', "kill-on-invalid-dep: maybe",
    ],
)  # fmt: skip
def test_hostile_sbatch_values_are_refused(text: str) -> None:
    assert len(_problems(f"slurm: {{{text}}}")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "env: {RANK: 1}", "env: {SLURM_CONF: x}", "env: {TRAINER_RANK: x}", "env: {OMP_NUM_THREADS: 4}", "env: {a-b: x}", "env: {X: true}",
        "env: {X: 1.50}", "env: {WANDB_API_KEY: abc}", "env: {HF_TOKEN: abc}", "env: [A]", "secrets: ['a=b']", "secrets: [a, 'b c']",
        "secrets: HF_TOKEN", "paths: {'a b': /x}", "paths: {a: 1}", "runs_dir: /x/%j", "python: -c", "python: ''", "ranks_per_node: 0",
        "limits: {crashes: -1}", "limits: {poll_s: .nan}", "limits: {poll_s: .inf}", "limits: {nope: 1}", "limits: {crashes: true}",
        "srun_args: --x", "srun_args: [1]", "setup: [a]", "resources: {ranks: 3}", "nope: 1", "ranks_per_node: 1.5", "slurm: main",
    ],
)  # fmt: skip
def test_wrong_profiles_are_refused_with_one_problem_each(text: str) -> None:
    (problem,) = _problems(text)
    assert problem.where is not None and problem.where.line == 2 and problem.key.startswith("cluster.")


def test_a_token_in_env_is_sent_to_secrets_but_its_lookalikes_pass() -> None:
    assert "secrets: [HF_TOKEN]" in _problems("env: {HF_TOKEN: abc}")[0].hint
    assert _cluster("env: {TOKENIZERS_PARALLELISM: 'false'}").env == {"TOKENIZERS_PARALLELISM": "false"}


def test_all_problems_of_a_mapping_are_told() -> None:
    found = _problems("slurm: {nodes: 1, tme: 3}\nenv: {RANK: 1, X: true}\nnope: 1\nlimits: {crashs: 1}")
    assert [problem.key for problem in found] == [
        "cluster.slurm.nodes", "cluster.slurm.tme", "cluster.env.RANK", "cluster.env.X", "cluster.nope", "cluster.limits.crashs",
    ]  # fmt: skip
    assert found[-1].hint == "did you mean crashes?"


def test_the_executor_must_be_said() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Cluster, strict_yaml.parse("runs_dir: x", "c.yaml"), "cluster")
    assert (caught.value.message, caught.value.hint) == ("'executor' is missing", "add executor: local or slurm")


@pytest.mark.parametrize(
    ("text", "ranks"),
    [
        ("ranks_per_node: 3\nslurm: {gpus-per-node: 8}", 3), ("slurm: {gpus-per-node: 8}", 8), ("slurm: {gpus-per-node: a100:4}", 4),
        ("slurm: {gres: gpu:4}", 4), ("slurm: {gres: 'gpu:h100:2,shard:8'}", 2), ("slurm: {gres: 'gpu:a:2,gpu:b:1'}", 3),
        ("slurm: {gres: gpu}", 1), ("slurm: {gres: 'shard:8'}", 1), ("", 1),
    ],
)  # fmt: skip
def test_ranks_on_a_node_follow_from_its_gpus(text: str, ranks: int) -> None:
    assert _cluster(text).default_ranks_per_node() == ranks


def test_the_command_line_may_use_options_of_plugins_and_dependencies() -> None:
    given = {"container-image": "/x.sqsh", "dependency": "afterok:1", "exclusive": True, "hold": False}
    assert sbatch_options.options(given, command_line=True) == {"container-image": "/x.sqsh", "dependency": "afterok:1", "exclusive": True}
    for name in ("nodes", "job-name", "-x", "a b", "Foo", "gpus_per_node"):
        with pytest.raises(sbatch_options.OptionError):
            sbatch_options.option(name, "1", command_line=True)


def test_importing_the_configuration_brings_no_torch() -> None:
    heavy = {"torch", "jinja2", "submitit", "pyarrow", "numpy"}
    code = f"import fvlaunch.config.compose, fvlaunch.planning.plan, sys; print(sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_looking_up_and_listing_bring_no_pydantic() -> None:
    code = "import fvlaunch.config.lookup as l, sys; l.listing('recipe'); print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
