"""Commands on runs that exist: what cannot be done to one is one clear error that changes nothing, and each is told as it is."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fvlaunch.runs.directory import Run
from tests.support.commands import Call, make_run, nothing_made, refused, write
from tests.support.rows import fault

pytestmark = pytest.mark.usefixtures("folder")


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


def test_logs_of_a_run_that_never_ran_say_so(call: Call, finished: Run) -> None:
    answer = call("logs", "old")
    assert (answer.code, answer.out) == (0, "") and "old has no log: nothing of it has run yet; fvlaunch status old says why" in answer.err


@fault("18", "resume of a run whose job runs")
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


@pytest.mark.parametrize("words", [("status",), ("status", "old"), ("list", "runs"), ("stop", "old"), ("logs", "last")])
def test_a_runs_folder_that_was_named_and_is_not_there_is_said_so(call: Call, words: tuple[str, ...]) -> None:
    refused(call(*words, "--runs-dir", "nowhere"), "the runs folder nowhere does not exist", "", "mend --runs-dir")
    nothing_made()


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


def test_a_glob_or_several_names_stop_each_and_the_code_is_1_where_one_cannot(call: Call) -> None:
    for name, state in (("dmd2-a", "submitting"), ("dmd2-b", "finished"), ("dmd2-c", "submitting"), ("kd", "submitting")):
        make_run(name, state=state)
    answer = call("stop", "dmd2-*")
    assert answer.code == 1 and answer.err.count("error: ") == 1 and "dmd2-b is finished already" in answer.err
    assert "dmd2-a: stopped" in answer.err and "dmd2-c: stopped" in answer.err and Run(Path("runs/kd")).record().state == "submitting"
    assert call("cancel", "kd", "dmd2-b", "dmd2-a").code == 1 and Run(Path("runs/kd")).record().state == "cancelled"
    refused(call("stop", "self-*"), "no run matches 'self-*'", "", "fvlaunch list runs")
    assert [one["run"] for one in json.loads(call("status", "dmd2-[ab]", "kd", "--json").out)] == ["dmd2-a", "dmd2-b", "kd"]
    pruned = call("prune", "dmd2-*", "--keep-last", "2", "--json")
    assert (pruned.code, json.loads(pruned.out)) == (0, [])
