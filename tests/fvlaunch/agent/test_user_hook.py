"""A person's command is told what became of a run, and cannot harm it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from fvlaunch.agent.user_hook import event_of, tell
from fvlaunch.config.compose import compose
from fvlaunch.config.schema import Notify
from fvlaunch.errors import ConfigError
from fvlaunch.runs.attempts import Attempt, Cause
from fvlaunch.runs.directory import Record, Run, create
from tests.support.small_disk import small_disk


@pytest.fixture
def run(tmp_path: Path) -> Run:
    now = time.time()
    return create(tmp_path / "r", Record("r", "tiny", "here", "local", 1, "t", 10, 1, 1, now, now, state="failed", job_id="7"))


def attempt(number: int, cause: Cause, step: int | None) -> Attempt:
    return Attempt(number, 1, "7", ("n",), 0, 1, cause, None, step)


def test_the_event_comes_on_stdin_whole(run: Run, tmp_path: Path) -> None:
    hostile = "it's; touch CANARY $(touch CANARY)\n`touch CANARY`"
    tell(Notify(on=["failed"], command=["cp", "/dev/stdin", str(tmp_path / "told")]), run, "failed", hostile)
    value = json.loads((tmp_path / "told").read_text())
    assert (value["event"], value["run"], value["reason"], value["job_id"], value["max_steps"]) == ("failed", "r", hostile, "7", 10)
    assert not list(tmp_path.rglob("CANARY"))


def test_only_what_was_asked_for_is_told(run: Run, tmp_path: Path) -> None:
    wanted = Notify(on=["failed"], command=["touch", str(tmp_path / "told")])
    for event in ("finished", None):
        tell(wanted, run, event, "")
    tell(None, run, "failed", "")
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize(
    ("command", "limit_s", "words"),
    [
        (["/no/such/program"], 240, "cannot start /no/such/program"),
        (["sh", "-c", "echo out of order; exit 3"], 240, "it ended with 3"),
        (["sleep", "600"], 0.3, "killed after 0.3 s"),
        (["sh", "-c", "exec <&-; exit 0"], 240, "told"),
    ],
)
def test_a_command_that_fails_hangs_or_does_not_read_is_only_noted(
    run: Run, command: list[str], limit_s: float, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    tell(Notify(command=command, timeout_s=limit_s), run, "failed", "x" * 200_000)
    assert words in capfd.readouterr().err


def test_a_run_stalls_where_it_hangs_or_crashes_without_a_new_step() -> None:
    one = attempt(1, Cause.CRASH, 5)
    assert event_of("", [one]) is None
    assert event_of("", [one, attempt(2, Cause.CRASH, 5)]) == "stalled"
    assert event_of("", [one, attempt(2, Cause.CRASH, 6)]) is None
    assert event_of("", [attempt(1, Cause.HANG, 5)]) == "stalled"
    assert event_of("", [one, attempt(2, Cause.PREEMPTION, 5)]) is None
    assert event_of("finished", [one]) == "finished" and event_of("", []) is None


def test_a_command_is_a_list_or_a_line_and_never_goes_through_a_shell(tmp_path: Path) -> None:
    def notify(text: str) -> Notify | None:
        (tmp_path / "c.yaml").write_text(f"executor: local\npaths: {{data: d}}\nnotify: {text}\n")
        return compose("shapes-finetune", str(tmp_path / "c.yaml")).cluster.notify

    found = notify("{on: [failed], command: \"mail -s 'a run' me; rm x\"}")
    assert found is not None and found.command == ["mail", "-s", "a run", "me;", "rm", "x"]
    for wrong in ("{on: [failed]}", "{on: [exploded], command: x}", '{command: "it\'s"}', "{command: []}", "{on: [], command: x}"):
        with pytest.raises(ConfigError, match=r"notify|on|command"):
            notify(wrong)


def test_a_person_is_told_on_a_full_disk_too(tmp_path: Path) -> None:
    now = time.time()
    with small_disk(tmp_path / "runs", kb=256) as disk:
        run = create(disk.path / "r", Record("r", "tiny", "here", "local", 1, "t", 10, 1, 1, now, now, state="failed", job_id="7"))
        disk.read_only()
        tell(Notify(on=["failed"], command=["cp", "/dev/stdin", str(tmp_path / "told")]), run, "failed", "no room")
    assert json.loads((tmp_path / "told").read_text())["reason"] == "no room"
