"""Promises of how cuda.py runs its rows: what hangs or crashes costs itself alone, what was measured stands, and a second call goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.benchmarks import cuda_runner
from tests.benchmarks.cuda_rows import Check, Figure
from tests.benchmarks.cuda_runner import CUT, DONE, Line, Row, Runner, pending, read
from tests.support.paths import ROOT

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def right() -> Sequence[Check | Figure]:
    return [Check("holds", "1", "1", True), Figure("step", 0.5)]


def wrong() -> Sequence[Check | Figure]:
    return [Check("holds", "2", "1", False)]


def hanging() -> Sequence[Check | Figure]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(60)


def with_a_child_that_hangs() -> Sequence[Check | Figure]:
    """The child says its pid by the log of the row."""
    print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
    return hanging()


def crashing() -> Sequence[Check | Figure]:
    print("an illegal memory access", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    return []


def raising() -> Sequence[Check | Figure]:
    raise RuntimeError("no kernel image")


def leaving() -> Sequence[Check | Figure]:
    sys.exit(3)


def ran(folder: Path, rows: Sequence[Row], *, stamp: str = "one", seconds: float = 60.0) -> list[str]:
    """Run what is pending of the rows; return the names of those that are left."""
    results = folder / "rows.jsonl"
    runner = Runner(results, folder / "logs", stamp, time.monotonic() + seconds)
    return runner.run(pending(rows, read(results), stamp))


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_hangs_crashes_or_raises_costs_itself_alone(tmp_path: Path) -> None:
    rows = [
        Row("hangs", hanging, 0.5), Row("first", right), Row("crashes", crashing), Row("raises", raising), Row("leaves", leaving),
        Row("last", right),
    ]  # fmt: skip
    assert ran(tmp_path, rows) == []
    found = read(tmp_path / "rows.jsonl")
    assert list(found) == [row.name for row in rows]
    assert found["first"].ended == found["last"].ended == DONE
    assert found["first"].checks == [Check("holds", "1", "1", True)] and found["first"].figures == [Figure("step", 0.5)]
    assert found["hangs"].ended == "not over after 0.5 s"
    assert found["crashes"].ended == "its process ended with -9 / an illegal memory access"
    assert found["raises"].ended == "it raises RuntimeError: no kernel image"
    assert found["leaves"].ended == "it raises SystemExit: 3"


def test_what_a_row_has_started_ends_with_it(tmp_path: Path) -> None:
    ran(tmp_path, [Row("hangs", with_a_child_that_hangs, 1.0)])
    assert not is_alive(int((tmp_path / "logs/01.log").read_text()))


def test_a_second_call_goes_on_and_tries_again_last_what_failed(tmp_path: Path) -> None:
    rows = [Row("wrong", wrong), Row("right", right), Row("raises", raising), Row("new", right)]
    assert ran(tmp_path, rows[:3]) == []
    known = read(tmp_path / "rows.jsonl")
    assert [row.name for row in pending(rows, known, "one")] == ["new", "wrong", "raises"]
    assert [row.name for row in pending(rows, known, "other code")] == [row.name for row in rows]
    assert ran(tmp_path, [Row("wrong", right), *rows[1:]]) == []
    assert read(tmp_path / "rows.jsonl")["wrong"].right


def test_after_the_budget_no_row_is_begun_and_those_that_are_left_are_named(tmp_path: Path) -> None:
    assert ran(tmp_path, [Row("one", right), Row("two", right)], seconds=0.0) == ["one", "two"]
    assert read(tmp_path / "rows.jsonl") == {}


def test_a_row_that_does_not_get_its_time_is_as_good_as_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_runner, "_GRACE_S", 0.0)
    rows = [Row("long", hanging), Row("two", right)]
    assert ran(tmp_path, rows, seconds=0.3) == ["long", "two"]
    assert read(tmp_path / "rows.jsonl")["long"].ended == CUT
    assert pending(rows, read(tmp_path / "rows.jsonl"), "one") == rows


def test_a_torn_line_costs_its_own_row_alone(tmp_path: Path) -> None:
    rows = [Row("one", right), Row("two", right), Row("three", right)]
    results = tmp_path / "rows.jsonl"
    results.write_text(Line("one", "one").text() + Line("two", "one").text()[:25])
    assert ran(tmp_path, rows) == []
    assert set(read(results)) == {"one", "two", "three"} and results.read_text().count("\n") == 4


def test_rows_that_take_no_times_run_beside_each_other_and_the_others_alone(tmp_path: Path) -> None:
    def meeting(mine: str, other: str) -> Sequence[Check | Figure]:
        (tmp_path / mine).touch()
        while not (tmp_path / other).exists():
            time.sleep(0.01)
        return []

    def alone() -> Sequence[Check | Figure]:
        return [Check("alone", "", "", len(list(tmp_path.glob("logs/*.json"))) == 2)]

    together = [Row(mine, lambda mine=mine, other=other: meeting(mine, other), 20, together=True) for mine, other in ("ab", "ba")]  # type: ignore[misc]
    ran(tmp_path, [*together, Row("timed", alone)])
    assert all(line.right for line in read(tmp_path / "rows.jsonl").values()) and len(read(tmp_path / "rows.jsonl")) == 3


STOPPED = """
import sys, time, subprocess
from pathlib import Path
from tests.benchmarks.cuda import _stop
import signal
signal.signal(signal.SIGTERM, _stop)
from tests.benchmarks.cuda_runner import Row, Runner
def hanging():
    print(subprocess.Popen(["sleep", "600"]).pid, flush=True)
    time.sleep(600)
folder = Path(sys.argv[1])
Runner(folder / "rows.jsonl", folder / "logs", "one", time.monotonic() + 600).run([Row("done", list), Row("hangs", hanging, 600)])
"""


def test_a_script_that_is_stopped_leaves_what_was_measured_and_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", STOPPED, tmp_path], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        log = tmp_path / "logs/02.log"
        while not (log.exists() and log.read_text().endswith("\n")):
            time.sleep(0.02)
        process.terminate()
        assert process.wait(20) != 0
    assert not is_alive(int(log.read_text())) and set(read(tmp_path / "rows.jsonl")) == {"done"}
