"""Loader processes: same data from any number of them, not in the way of a rank's signals, pipes and death."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.paths import ROOT
from trainers.data.loader_processes import load
from trainers.errors import UserError


class Squares:
    def __getitem__(self, key: int) -> Any:
        if key == 13:
            raise UserError("file.parquet: row 13: bad", "write it again")
        return key, key * key, os.getpid()


class Arrays:
    """Items bigger than any pipe."""

    def __getitem__(self, key: int) -> Any:
        if key == 5:
            return 1 / 0
        if key == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"big": np.full((key, 300_000), key, np.float32), "name": str(key), "torch": "torch" in sys.modules}


def children() -> list[Any]:
    return multiprocessing.active_children()


def eventually(check: Callable[[], bool], within_s: float = 240) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if check():
            return True
        time.sleep(0.05)
    return check()


@pytest.fixture
def notices() -> Iterator[list[int]]:
    """The signals that this process, the "rank", gets."""
    seen: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _frame: seen.append(number))
    yield seen
    signal.signal(signal.SIGTERM, before)


def test_loader_processes_serve_the_rank_and_leave_its_signals_and_pipes_alone(notices: list[int]) -> None:
    progress = os.pipe()
    os.set_inheritable(progress[1], True)  # as a careless launcher might leave it
    loaded = load(Squares(), iter([*range(12), 13, 14]), workers=2)
    workers = children()
    for process in workers:  # a notice to the whole process group that comes while they start
        os.kill(process.pid, signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    first = next(loaded)
    for process in workers:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(process.pid, number)
        held = [f.stat().st_ino for f in Path(f"/proc/{process.pid}/fd").iterdir() if f.exists()]
        assert os.fstat(progress[1]).st_ino not in held
    rest = [next(loaded) for _ in range(11)]
    assert [(k, square) for k, square, _ in (first, *rest)] == [(k, k * k) for k in range(12)]
    assert {pid for *_, pid in rest} == {process.pid for process in workers}
    assert notices == [signal.SIGTERM]
    with pytest.raises(UserError) as caught:  # as it was raised, not as a page of traceback
        next(loaded)
    assert (caught.value.message, caught.value.hint) == ("file.parquet: row 13: bad", "write it again")
    assert not any(process.is_alive() for process in workers)
    for descriptor in progress:
        os.close(descriptor)


def test_no_process_is_needed() -> None:
    assert [square for _, square, _ in load(Squares(), iter(range(4)), workers=0)] == [0, 1, 4, 9]
    with pytest.raises(UserError, match="row 13: bad"):
        next(load(Squares(), iter([13]), workers=0))


def test_big_arrays_come_back_writable_and_failures_with_where_they_happened() -> None:
    loaded = load(Arrays(), iter([2, 0, 3, 5]), workers=1)
    for key in (2, 0, 3):
        item = next(loaded)
        assert item["big"].shape == (key, 300_000) and (item["big"] == key).all() and item["name"] == str(key)
        item["big"] += 1
        assert not item["torch"]  # what takes seconds and hundreds of megabytes to load
    (worker,) = children()
    with pytest.raises(RuntimeError, match=r"(?s)in a loader process:.*in __getitem__.*ZeroDivisionError"):
        next(loaded)
    assert not worker.is_alive()
    loaded = load(Arrays(), iter([6]), workers=1)
    with pytest.raises(RuntimeError, match=r"a loader process died \(exit code -9\)"):
        next(loaded)


SCRIPT = """
import multiprocessing, os, sys, time
from trainers.data.loader_processes import load

class Numbers:
    def __getitem__(self, key):
        if key == 1:
            time.sleep(1000)  # a read that never comes back
        return key

if __name__ == "__main__":
    loaded = load(Numbers(), iter(range(10)), workers=1)
    next(loaded)
    print(*[p.pid for p in multiprocessing.active_children()], flush=True)
    {ending}
"""


def is_gone(pid: int) -> bool:
    """Ended, whether or not somebody has collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_loader_processes_end_with_the_rank_even_when_they_are_stuck(tmp_path: Path) -> None:
    endings = {"sys.exit(75)": 75, "os.kill(os.getpid(), 9)": -9}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ranks = []
    for number, ending in enumerate(endings):
        script = tmp_path / f"rank{number}.py"
        script.write_text(textwrap.dedent(SCRIPT).format(ending=ending))
        ranks.append(subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment))
    for rank, code in zip(ranks, endings.values(), strict=True):
        with rank:
            assert rank.stdout is not None
            pid = int(rank.stdout.readline())
            assert rank.wait(timeout=240) == code
        assert eventually(lambda pid=pid: is_gone(pid))
