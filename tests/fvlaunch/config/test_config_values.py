"""Times, names, control characters and `${...}`."""

from __future__ import annotations

import pytest

from fvlaunch.config import strict_yaml, values
from fvlaunch.config.values import Substitution

TIMES = [
    (30, 1800, "00:30:00"),
    ("30", 1800, "00:30:00"),
    ("30:15", 1815, "00:30:15"),
    ("24:00:00", 86400, "1-00:00:00"),
    ("100:00:00", 360000, "4-04:00:00"),
    ("1-12", 129600, "1-12:00:00"),
    ("1-12:30", 131400, "1-12:30:00"),
    ("1-12:00:00", 129600, "1-12:00:00"),
    ("0:00:01", 1, "00:00:01"),
    ("unlimited", None, "UNLIMITED"),
]


@pytest.mark.parametrize(("given", "total", "text"), TIMES)
def test_times_are_read_as_sbatch_reads_them(given: str | int, total: int | None, text: str) -> None:
    assert values.seconds(given) == total
    assert values.time_text(given) == text
    assert values.seconds(text) == total


@pytest.mark.parametrize(
    "given", ["", "24h", "1:2:3:4", "-5", 0, -1, "0:00:00", True, 1.5, "1-", "00:60:00", "1:00:99", "٣", "9" * 30, "1 2"]
)
def test_what_is_not_a_time_is_refused(given: str | int) -> None:
    with pytest.raises(ValueError, match=r"time|59"):
        values.seconds(given)


@pytest.mark.parametrize("name", ["a", "shapes-finetune-20260102-030405", "A.b_c-1", "x" * 80, "1a"])
def test_plain_names_can_name_a_run(name: str) -> None:
    values.check_run_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "../a", "a\n", "a%j", "$(x)", "a;b", "x" * 81, "last", "12345", "ä"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot name a run"):
        values.check_run_name(name)


def _substitute(text: str, *, cluster: bool = True) -> tuple[object, list[str]]:
    substitution = Substitution({"data": "/d", "odd": "/a b"}, {"USER": "me", "LOOP": "${USER}"} if cluster else None, "")
    return substitution.apply(strict_yaml.parse(text, "f")).plain, [problem.message for problem in substitution.problems]


def test_paths_and_variables_are_put_in_once() -> None:
    assert _substitute("{a: '${paths.data}/x', b: ['${USER}', '$USER'], c: '${LOOP}', d: 3}") == (
        {"a": "/d/x", "b": ["me", "$USER"], "c": "${USER}", "d": 3},
        [],
    )


def test_folders_that_are_keys_may_be_written_with_paths_too() -> None:
    assert _substitute("path: {'${paths.data}/a': 2, b: 1}") == ({"path": {"/d/a": 2, "b": 1}}, [])
    assert _substitute("path: {'${paths.dat}/a': 2}")[1] == ["unknown name ${paths.dat}"]


def test_a_recipe_reads_no_environment() -> None:
    assert _substitute("{a: '${USER}'}", cluster=False)[1] == ["unknown name ${USER}"]


@pytest.mark.parametrize(
    "text", ["${paths.nope}", "${NOPE}", "${}", "${paths}", "${paths.data", "${a b}", "${data}", "${paths.data.x}", "${USER:-x}"]
)
def test_an_unknown_name_is_an_error_that_lists_the_known(text: str) -> None:
    substitution = Substitution({"data": "/d"}, {"USER": "me"}, "cluster")
    substitution.apply(strict_yaml.parse(f"a: '{text}'", "f"))
    (problem,) = substitution.problems
    assert "paths." in problem.hint and problem.key == "cluster.a" and problem.where == strict_yaml.Place("f", 1, 1)


def test_setup_leaves_shell_variables_to_the_shell() -> None:
    text = "setup: |\n  export A=${HOME:-x} B=${SLURM_JOB_ID} C=$USER ${USER}\n  cd ${paths.data}\n"
    assert _substitute(text) == ({"setup": "export A=${HOME:-x} B=${SLURM_JOB_ID} C=$USER ${USER}\ncd /d\n"}, [])


def test_setup_gets_no_path_that_a_shell_would_split() -> None:
    assert "characters that a shell reads" in _substitute("setup: cd ${paths.odd}")[1][0]


def test_a_line_break_is_refused_but_where_lines_belong() -> None:
    node = strict_yaml.parse('{a: "x\\ny", setup: "x\\ny", b: ["\\t"], "k\\n": 1}', "f")
    found = values.control_problems(node, "cluster", lambda path: path == ("setup",))
    assert [problem.key for problem in found] == ["cluster.a", "cluster.b[0]", "cluster.k\n"]
