"""notify's command is found beside its profile and looked at before anything is queued."""

from __future__ import annotations

from pathlib import Path

import pytest

from fvlaunch.config.compose import compose
from fvlaunch.errors import ConfigError
from fvlaunch.planning.planner import plan_of
from fvlaunch.planning.preflight import check_inputs
from fvlaunch.planning.warnings import warnings_of
from tests.support.isolation import isolate


@pytest.fixture(autouse=True)
def _away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)
    (tmp_path / "clusters/more").mkdir(parents=True)


def _command(text: str, profile: str = "clusters/mine.yaml", sets: tuple[str, ...] = ()) -> list[str]:
    Path(profile).write_text(f"executor: local\npaths: {{data: data}}\nnotify: {text}\n")
    notify = compose("shapes-finetune", profile, sets=sets).cluster.notify
    assert notify is not None
    return notify.command


def test_the_program_lies_beside_the_profile_that_names_it(tmp_path: Path) -> None:
    beside = tmp_path / "clusters"
    (beside / "words.txt").write_text("")
    assert _command("{command: [./tell-me.sh]}") == [f"{beside}/tell-me.sh"]
    assert _command("{command: ../tell-me.sh --to me}") == [f"{tmp_path}/tell-me.sh", "--to", "me"]
    assert _command("{command: [tools/tell, ./words.txt, ./none.txt]}") == [f"{beside}/tools/tell", f"{beside}/words.txt", "./none.txt"]
    assert _command("{command: [/bin/tell, me]}") == ["/bin/tell", "me"] and _command("{command: mail me}") == ["mail", "me"]
    assert _command("{command: mail me}", sets=("cluster.notify.command=[./here.sh]",)) == [f"{tmp_path}/here.sh"]


def test_a_profile_that_extends_another_finds_the_program_beside_that_one(tmp_path: Path) -> None:
    _command("{command: [./tell-me.sh]}")
    (tmp_path / "clusters/more/small.yaml").write_text("extends: mine\n")
    notify = compose("shapes-finetune", "clusters/more/small.yaml").cluster.notify
    assert notify is not None and notify.command == [f"{tmp_path}/clusters/tell-me.sh"]


@pytest.mark.parametrize(
    ("content", "mode", "why", "hint"),
    [
        (None, 0, "it does not exist", "mend the path"),
        ("#!/bin/sh\n", 0o644, "it is not executable", "chmod +x"),
        ("echo told\n", 0o755, "names no interpreter in its first line", "#!/bin/sh"),
        ("#!/bin/sh\r\necho\r\n", 0o755, "as Windows ends lines", "save it"),
        ("", 0o755, "it is no program", "#!/bin/sh"),
    ],
)
def test_what_cannot_be_started_is_refused_at_submit(tmp_path: Path, content: str | None, mode: int, why: str, hint: str) -> None:
    _command("{command: [./tell-me.sh]}")
    if content is not None:
        (tmp_path / "clusters/tell-me.sh").write_text(content, newline="")
        (tmp_path / "clusters/tell-me.sh").chmod(mode)
    with pytest.raises(ConfigError) as caught:
        check_inputs(compose("shapes-finetune", "clusters/mine.yaml"))
    [problem] = caught.value.problems
    assert why in problem.message and hint in problem.hint and problem.key == "cluster.notify.command"
    assert str(problem.where) == "clusters/mine.yaml:3" and "cluster.notify=null" in problem.hint


def test_a_program_passes_and_a_name_that_is_not_on_path_is_told(tmp_path: Path) -> None:
    (tmp_path / "clusters/tell-me.sh").write_text("#!/bin/sh\n")
    (tmp_path / "clusters/tell-me.sh").chmod(0o755)
    for command, told in (("./tell-me.sh", 0), ("sh -c true", 0), ("no-such-program-here me", 1)):
        _command(f"{{command: {command}}}")
        composed = compose("shapes-finetune", "clusters/mine.yaml")
        check_inputs(composed)
        plan = plan_of(composed, name="a", ranks=None, nodes=None, sbatch={}, runs_dir=None)
        assert len([line for line in warnings_of(plan) if "is not on PATH here" in line]) == told, command
