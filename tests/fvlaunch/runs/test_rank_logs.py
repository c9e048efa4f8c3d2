"""Logs of ranks: the right attempt, several ranks in the order of time, every line once as it comes."""

from __future__ import annotations

import itertools
from itertools import count
from pathlib import Path

import pytest

from fvlaunch.cli import app
from fvlaunch.errors import FvlaunchError
from fvlaunch.runs import rank_logs
from fvlaunch.runs.directory import Run, create
from tests.support.records import finished_record


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(rank_logs, "POLL_S", 0)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    return create(tmp_path / "runs" / "a", RECORD)


def write_log(run: Run, attempt: int, text: str, rank: int = 0) -> Path:
    run.attempt_log(attempt).touch()
    path = run.rank_log(attempt, rank)
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        file.write(text)
    return path


def line(second: int, rank: int, text: str) -> str:
    return f"2026-11-21 12:00:{second:02},500 rank {rank}: {text}\n"


RECORD = finished_record(executor="slurm", generation=2)


@pytest.fixture
def three_ranks(run: Run) -> Run:
    write_log(run, 1, line(1, 0, "one") + line(4, 0, "four"))
    write_log(run, 1, "before any time\n" + line(2, 1, "two") + "Traceback:\n  File x\nValueError: bad\n" + line(5, 1, "five"), rank=1)
    write_log(run, 1, "[rank2]:[W1121 12:00:03.123456 ProcessGroupNCCL.cpp:1] three\nmore of it\n", rank=2)
    return run


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert app.run(["logs", "a", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


# Which


def test_the_newest_attempt_that_has_a_log_is_shown(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert rank_logs.newest_files(run, (0,)) is None and rank_logs.newest_files(run, None) is None
    write_log(run, 1, "one\n")
    write_log(run, 2, "two\n")
    run.attempt_log(3).touch()  # it has only just started
    assert printed(capsys) == ["two"]
    assert printed(capsys, "--attempt", "1") == ["one"]
    assert printed(capsys, "--attempt", "all") == ["one", "two"]


def test_what_is_not_there_is_told_with_what_is(three_ranks: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (
        (["--attempt", "9"], "its attempts: 1, or all"),
        (["--rank", "7"], "its ranks: 0-2"),
        (["--rank", "x"], "--rank 0-7"),
        (["--grep", "("], "not a regular expression"),
    ):
        assert app.run(["logs", "a", *words]) == 1
        assert told in capsys.readouterr().err


@pytest.mark.parametrize(("text", "ranks"), [("3", (3,)), ("0,5", (0, 5)), ("2-4", (2, 3, 4)), ("1,1-2", (1, 2)), ("all", None)])
def test_ranks_are_named_singly_as_a_list_as_a_span_or_all(text: str, ranks: tuple[int, ...] | None) -> None:
    assert rank_logs.wanted_ranks(text) == ranks


@pytest.mark.parametrize("text", ["", "x", "-1", "1-", "0-99999999", "1;2"])
def test_what_names_no_rank_is_refused(text: str) -> None:
    with pytest.raises(FvlaunchError):
        rank_logs.wanted_ranks(text)


# Merged


def test_ranks_are_merged_by_time_and_what_belongs_together_stays_so(three_ranks: Run, capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(capsys, "--rank", "all")
    order = [(text[1], text.rpartition(": ")[2]) for text in shown]
    assert order[0] == ("1", "[1] before any time")
    assert [rank for rank, _ in order] == ["1", "0", "1", "1", "1", "1", "2", "2", "0", "1"]
    assert shown[3:6] == ["[1] Traceback:", "[1]   File x", "[1] ValueError: bad"]
    assert printed(capsys, "--rank", "0,2", "--grep", "three|four") == [s for s in shown if "three" in s or "four" in s]
    assert printed(capsys, "--rank", "0") == [text.removeprefix("[0] ") for text in shown if text.startswith("[0]")]


def test_a_clock_that_is_set_back_does_not_shuffle_a_log(run: Run) -> None:
    write_log(run, 1, line(5, 0, "a") + line(1, 0, "b") + line(6, 0, "c"))
    write_log(run, 1, line(5, 1, "x"), rank=1)
    shown = [text[-1] for text in rank_logs.merged(rank_logs.log_files(run, 1, None), None) if text.startswith("[0]")]
    assert shown == ["a", "b", "c"]


def test_a_long_log_that_never_tells_a_time_is_not_held_whole(run: Run) -> None:
    write_log(run, 1, "noise\n" * 1000)
    write_log(run, 1, line(1, 1, "x"), rank=1)
    entries = list(rank_logs._entries(0, rank_logs._lines_of(run.rank_log(1, 0))))
    assert max(len(entry.lines) for entry in entries) <= 256 and sum(len(entry.lines) for entry in entries) == 1000


def test_lines_are_searched_and_bytes_that_are_no_text_do_no_harm(run: Run) -> None:
    path = write_log(run, 1, "step 1\n")
    path.write_bytes(b"step 1\nloss \xff 2\nstep 3")
    assert list(rank_logs.lines(path, None)) == ["step 1", "loss \ufffd 2", "step 3"]
    assert list(rank_logs.lines(path, "^step")) == ["step 1", "step 3"]


def test_a_line_without_an_end_is_shown_in_pieces_between_words(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_logs, "CHUNK", 7)
    monkeypatch.setattr(rank_logs, "LONGEST_LINE", 16)
    words = "the quick brown fox jumps over the lazy dog " * 3
    path = write_log(run, 1, f"first\n{words}\n{'x' * 100}\nlast")
    shown = list(rank_logs.lines(path, None))
    assert (shown[0], shown[-1]) == ("first", "last") and max(map(len, shown)) <= 16 + 7
    assert "".join(shown[1:-1]) == words + "x" * 100
    assert all(text.endswith(" ") for text in shown[1:-1] if "x" not in text.replace("fox", ""))


def test_the_states_of_a_progress_bar_are_lines(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in range(1, 9):
        monkeypatch.setattr(rank_logs, "CHUNK", chunk)
        path = write_log(run, chunk, " 1%\r 50%\r100%\r\nover\r\n\nend\r")
        assert list(rank_logs.lines(path, None)) == [" 1%", " 50%", "100%", "over", "", "end"]


# Followed


def test_following_shows_every_line_once_over_two_attempts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last words of a crashed attempt come just before the next one starts: they are what is looked for."""
    monkeypatch.setattr(rank_logs, "CHUNK", 3)
    write_log(run, 1, "first\nhalf a ")
    turns = count()

    def is_over() -> bool:
        turn = next(turns)
        if turn == 1:
            write_log(run, 1, "line: äöü\nTraceback\nunended")
            write_log(run, 2, "second\n")
        elif turn == 2:
            write_log(run, 2, "last without an end")
        return turn == 2

    assert list(rank_logs.follow(run, (0,), None, is_over)) == [
        "==> attempt-0001 rank 0 <==", "first", "half a line: äöü", "Traceback", "unended",
        "==> attempt-0002 rank 0 <==", "second", "last without an end",
    ]  # fmt: skip


def test_following_can_be_searched_and_waits_for_a_log_that_is_not_there_yet(run: Run) -> None:
    run.attempt_log(1).touch()
    turns = count()

    def is_over() -> bool:
        turn = next(turns)
        if turn == 2:
            write_log(run, 1, "step 1\nother\nstep 2\n", rank=1)
        return turn == 3

    assert list(rank_logs.follow(run, (1,), "step", is_over)) == ["==> attempt-0001 rank 1 <==", "step 1", "step 2"]


def test_following_all_ranks_takes_in_those_that_come_later_and_merges_what_came(three_ranks: Run) -> None:
    turns = count()

    def is_over() -> bool:
        turn = next(turns)
        if turn == 1:
            write_log(three_ranks, 1, line(9, 0, "nine"))
            write_log(three_ranks, 1, line(7, 12, "seven"), rank=12)
        return turn == 2

    shown = list(rank_logs.follow(three_ranks, None, "four|five|seven|nine", is_over))
    assert shown[0] == "==> attempt-0001 all ranks <=="
    assert [text.rpartition(": ")[2] for text in shown[1:]] == ["four", "five", "seven", "nine"]
    assert [text[:4] for text in itertools.islice(shown, 3, None)] == ["[12]", "[ 0]"]
