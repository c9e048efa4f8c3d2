"""`fvlaunch show RECIPE --ettr`: a row for each number of nodes, the figures behind it and their origins; one error where it is absurd."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from fvlaunch.commands import effective_training
from tests.support.profiles import Call, caller_beside_a_profile


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    return caller_beside_a_profile(tmp_path, monkeypatch, capsys)


def test_the_table_has_a_row_for_8_to_1024_nodes_below_the_figures(call: Call) -> None:
    code, out, err = call("show", "finetune", "--cluster", "lab", "--ettr")
    figures, _, rows = out.partition("\n\n")
    assert (code, err) == (0, "")
    assert "arXiv:2410.21680" in figures and "limits.head_silence_s" in figures and "\x1b" not in out
    head, *lines = rows.splitlines()
    assert head.split()[:1] == ["NODES"] and "ETTR" in head and "AT 15 MIN" in head
    assert [int(line.split()[0]) for line in lines] == [8, 16, 32, 64, 128, 256, 512, 1024]


def test_json_tells_the_same_with_all_digits(call: Call) -> None:
    sets = ("--set", "cluster.reliability.start_s=60", "--set", "cluster.slurm.time=30-0")
    told = json.loads(call("show", "finetune", "--cluster", "lab", "--ettr", "--json", *sets)[1])
    assert told["figures"]["start_s"] == {"value": 60.0, "origin": "--set"} and told["every_minutes"] == 15
    ratios = [one["effective_training_time_ratio"] for one in told["nodes"]]
    intervals = [one["best_minutes"] for one in told["nodes"]]
    assert sorted(ratios, reverse=True) == ratios and 0.9 < ratios[-1] < ratios[0] < 1
    assert sorted(intervals, reverse=True) == intervals
    for one in told["nodes"]:
        assert one["best_minutes"] == pytest.approx(one["daly_minutes"], rel=0.05)
        assert one["as_written"] <= one["effective_training_time_ratio"] + 1e-3


def test_where_no_step_is_kept_no_interval_is_named(call: Call) -> None:
    never = ("--set", "cluster.reliability.start_s=100000", "--set", "cluster.slurm.time=1:00:00")
    for one in json.loads(call("show", "finetune", "--cluster", "lab", "--ettr", "--json", *never)[1])["nodes"]:
        assert (one["effective_training_time_ratio"], one["best_minutes"]) == (0, None)


def test_where_nothing_fails_no_interval_is_named(call: Call) -> None:
    never = ("show", "finetune", "--cluster", "lab", "--ettr", "--set", "cluster.reliability.failures_per_node_day=0")
    assert {one["best_minutes"] for one in json.loads(call(*never, "--json")[1])["nodes"]} == {None}
    assert call(*never)[0] == 0


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("finetune", "--cluster", "local"), "local is one machine"),
        (("finetune",), "local is one machine"),
        (("download", "--cluster", "lab"), "download is a download recipe"),
        (("finetune", "--cluster", "lab", "--set", "train.models.student.init_from=some/other"), "how large the student is"),
        (("finetune", "--cluster", "lab", "--set", "cluster.reliability.detection_s=-1"), "greater than or equal to 0"),
        (("finetune", "--cluster", "lab", "--set", "cluster.reliability.failures=1"), "unknown key 'failures'"),
    ],
)
def test_what_means_nothing_is_one_error(call: Call, words: tuple[str, ...], what: str) -> None:
    code, out, err = call("show", *words, "--ettr")
    assert (code, out) == (1, "") and err.startswith("error: ") and err.count("error: ") == 1 and what in err


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_terminal_is_shown_bars_in_letters_that_it_has(call: Call, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    screen = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdout", screen)
    monkeypatch.setenv("COLUMNS", "160")
    effective_training.show("finetune", "lab", [], json_=False)
    screen.flush()
    text = screen.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert "WHERE THE REST GOES" in text and ("░" if encoding == "utf-8" else ".....") in text
