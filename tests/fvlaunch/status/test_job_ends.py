"""What is said of a job that ended before its agent could speak: its own last line, Slurm's reason, and a hint that is true."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from fvlaunch.runs.attempts import Cause, read_attempts
from fvlaunch.runs.directory import Run, create
from fvlaunch.runs.last_words import LastWords, last_words
from fvlaunch.schedulers.base import JobObservation
from fvlaunch.schedulers.slurm.states import explain
from fvlaunch.status.job_ends import gone
from fvlaunch.status.run_status import judge_run
from tests.support.records import record

RECORD = record(executor="slurm", generation=1, max_steps=100, state="submitted", job_id="7", job_ids=("7",))
EXECVE = "slurmstepd: error: execve(): /gone/python3: No such file or directory"


def end(state: str, reason: str = "", exit_code: str = "") -> JobObservation:
    return JobObservation(alive=False, ended=state, words=explain(state, reason, exit_code, "7"))


@pytest.mark.parametrize(
    ("seen", "words", "state", "told"),
    [
        (end("FAILED", "", "2:0"), LastWords(lines=(EXECVE,)), "failed", [EXECVE, "exit code 2", "fvlaunch resume a submits it again"]),
        (end("FAILED", "BadConstraints", "0:1"), LastWords(printed=False), "failed", ["BadConstraints", "never ran"]),
        (end("FAILED", "JobLaunchFailure", "0:53"), LastWords(printed=False), "failed", ["0:53", "output file could not be written"]),
        (end("FAILED", "", "1:0"), LastWords("line 1 of setup ended with exit code 1: false"), "failed", ["line 1 of setup", "mend that"]),
        (end("COMPLETED"), LastWords(lines=("bye",)), "failed", ["exit code 0 before an attempt was begun: bye"]),
        (end("NODE_FAIL"), LastWords(), "failed", ["NODE_FAIL", "lost a node"]),
        (end("DEADLINE"), LastWords(printed=False), "failed", ["DEADLINE", "at its deadline", "printed nothing"]),
        (end("OUT_OF_MEMORY"), LastWords(), "failed", ["used more memory than it had asked for"]),
        (end("PREEMPTED"), LastWords(), "stopped", ["preempted", "submits it again"]),
        (end("TIMEOUT"), LastWords(), "stopped", ["the time limit ended it before an attempt was begun"]),
        (end("CANCELLED by 0"), LastWords(), "cancelled", ["by 0", "before an attempt was begun"]),
        (JobObservation(alive=False, absent=True), LastWords("python cannot be started on n1"), "failed", ["python cannot be started"]),
        (JobObservation(alive=False, absent=True), LastWords(lines=("Killed",)), "lost", ["gone without a word: Killed"]),
    ],
)
def test_a_start_that_never_was_is_explained_and_no_checkpoint_is_spoken_of(
    seen: JobObservation, words: LastWords, state: str, told: list[str]
) -> None:
    judged, reason = gone(RECORD, seen, None, words, None, began=False)
    first = reason.splitlines()[0]
    assert judged == state and all(text in first for text in told), reason
    assert "checkpoint" not in reason and "signal 1" not in reason


def test_a_checkpoint_is_spoken_of_where_there_is_one() -> None:
    seen, words = end("FAILED", "", "1:0"), LastWords(lines=("what came first", "it failed"))
    assert "from the last checkpoint (step 40)" in gone(RECORD, seen, None, words, 40, began=True)[1]
    assert "resume a starts it again\n  what came first" in gone(RECORD, seen, None, words, None, began=True)[1]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = create(tmp_path / "a", RECORD)
    (made.job / "t").mkdir(parents=True)
    return made


def test_the_line_that_says_why_is_taken_from_the_end_of_the_jobs_own_output(run: Run) -> None:
    said = ["of the first life", *map(str, range(9)), EXECVE, "", "srun: error: n1: task 0: Exited with exit code 2"]
    (run.job / "t/7_0_log.out").write_text("\n".join(said))
    found = last_words(run, RECORD)
    assert found.why == EXECVE and found.lines[-1] == EXECVE and len(found.lines) < 9
    assert last_words(run, replace(RECORD, job_id="8")).why == EXECVE  # a job that followed another, and printed nothing yet
    assert not last_words(run, replace(RECORD, token="u")).printed


def test_nothing_that_a_job_printed_is_a_command_to_a_terminal(run: Run) -> None:
    (run.job / "t/7_0_log.out").write_bytes(b"\x1b[31mred\x1b[0m\x07 caf\xc3\xa9 \xff\n\x1b]0;title\rerror: gone\x00\n")
    (run.job / "t/given_up").write_bytes(b"line 1 of setup: \x1b[2Jfalse\n")
    found = last_words(run, RECORD)
    assert found.lines == ("red café \N{REPLACEMENT CHARACTER}", "]0;title", "error: gone")
    assert found.given_up == "line 1 of setup: false"


def test_secrets_in_a_jobs_last_words_are_hidden(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "very-secret")
    run.config_file.write_text("cluster: {secrets: [MY_TOKEN]}\n")
    (run.job / "t/7_0_log.out").write_text("cannot log in as very-secret\n")
    (run.job / "t/given_up").write_text("line 1 of setup: login very-secret\n")
    status = judge_run(run, RECORD, end("FAILED", "", "1:0"))
    assert status.state == "failed" and "very-secret" not in status.reason and "[secret]" in status.reason


def test_an_attempt_whose_agent_was_killed_ended_as_its_batch_script_saw_it(run: Run) -> None:
    start = '{"time": 1, "event": "started", "generation": 1, "job_id": "7", "restart_count": 2, "nodes": ["n1"]}\n'
    run.attempts.mkdir(exist_ok=True)
    run.attempt_log(1).write_text(start)
    assert read_attempts(run)[0].cause is Cause.RUNNING
    (run.job / "t/died.7.2").write_text("interrupted\n\n")
    assert read_attempts(run)[0].cause is Cause.INTERRUPTED
    (run.job / "t/died.7.2").write_text("out_of_memory\nslurmstepd: error: Detected 1 oom_kill event\n")
    attempt = read_attempts(run)[0]
    assert attempt.cause is Cause.OUT_OF_MEMORY and attempt.failure is not None
    assert "the agent itself" in attempt.failure.what and "oom_kill" in attempt.failure.explain()
