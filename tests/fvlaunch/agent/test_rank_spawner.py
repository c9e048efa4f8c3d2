"""Ranks that are forked from a process which has done their imports: whose children they are, what reaches them, and what may go wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fvlaunch.agent.rank_spawner import Child, ForkServer
from tests.support.paths import ROOT
from trainers.processes import module_command


@pytest.fixture
def server() -> Iterator[ForkServer]:
    made = ForkServer()
    yield made
    made.end()
    if made.channel is not None:
        made.channel.close()
    ctypes.CDLL(None).prctl(36, 0)  # orphans of other tests are not ours


def environment(rank: int = 0, **more: str) -> dict[str, str]:
    own = {"RANK": str(rank), "TRAINER_PARENT_PID": str(os.getpid()), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    return {**os.environ, **own, **more}


def ask(server: ForkServer, folder: Path, rank: int = 0, config: str = "nowhere.json", **more: str) -> tuple[Path, int]:
    """The rank's log and the reading end of its progress pipe."""
    log = folder / f"{rank}.log"
    reading, writing = os.pipe()
    with log.open("ab") as output:
        arguments = [config, "--run-dir", str(folder)]
        server.ask(rank, arguments, environment(rank, **more), folder, [output.fileno(), writing])
    os.close(writing)
    return log, reading


def eventually(true: Callable[[], object], within_s: float = 240) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def born(server: ForkServer, count: int) -> dict[int, Child]:
    found: dict[int, int] = {}

    def all_there() -> bool:
        found.update(server.births() or {})
        return len(found) == count

    eventually(all_there)
    return {rank: Child(pid) for rank, pid in found.items()}


def test_a_rank_is_a_child_with_its_own_session_log_pipe_and_name(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "fifo").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "fifo")  # a configuration that can't be read yet: the rank waits there
    log, reading = ask(server, tmp_path, 3, config="fifo", AN_OWN="value")
    # the process that forks reads the configuration too, to know what to import
    (tmp_path / "fifo").write_text("{}")
    [child] = born(server, 1).values()
    eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "rank 3\n")
    assert os.getsid(child.pid) == child.pid
    assert Path(f"/proc/{child.pid}/cwd").resolve() == tmp_path.resolve()
    assert int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid()
    (tmp_path / "fifo").write_text("{}")
    assert child.wait() == 76
    assert "fifo must hold one of train" in log.read_text()
    assert b'"rank": 3' in os.read(reading, 4096)


def test_what_a_rank_ends_with_is_told_as_for_any_child(server: ForkServer, tmp_path: Path) -> None:
    log, _ = ask(server, tmp_path)
    [child] = born(server, 1).values()
    assert child.wait() == child.poll() == 76
    assert "cannot read nowhere.json" in log.read_text()
    child.send_signal(signal.SIGTERM)  # of one that is gone: nothing


def test_a_signal_that_comes_before_a_rank_is_ready_is_kept_for_it(server: ForkServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ask(server, tmp_path, config="fifo")
    (tmp_path / "fifo").write_text("{}")
    [child] = born(server, 1).values()
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2):
        child.send_signal(signum)
    eventually(lambda: Path(f"/proc/{child.pid}/comm").read_text() == "rank 0\n")
    time.sleep(0.1)
    assert child.poll() is None  # it took them as a notice
    (tmp_path / "fifo").write_text("{}")
    assert child.wait() == 76


def test_each_rank_gets_its_own_environment(server: ForkServer, tmp_path: Path) -> None:
    logs = [ask(server, tmp_path, rank)[0] for rank in (0, 1)]
    children = born(server, 2)
    assert [children[rank].wait() for rank in (0, 1)] == [76, 76]
    assert len({child.pid for child in children.values()}) == 2
    assert all("cannot read" in log.read_text() for log in logs)


def test_of_a_server_that_was_killed_nobody_more_is_born_and_the_next_request_starts_another(server: ForkServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    ask(server, tmp_path, config="fifo")  # its imports never end
    assert server.births() == {}
    assert server.end() == -signal.SIGKILL
    eventually(lambda: server.births() is None)
    ask(server, tmp_path)
    [child] = born(server, 1).values()
    assert child.wait() == 76


def test_where_an_import_left_a_thread_ranks_are_started_anew(server: ForkServer, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    )
    os.mkfifo(tmp_path / "fifo")
    ask(server, tmp_path, config="fifo", PYTHONPATH=f"{tmp_path}:{ROOT!s}", PYTHONWARNINGS="ignore")
    (tmp_path / "fifo").write_text("{}")
    [child] = born(server, 1).values()
    command = Path(f"/proc/{child.pid}/cmdline")
    started_anew = [part.encode() for part in module_command("trainers")]
    eventually(lambda: command.read_bytes().split(b"\0")[: len(started_anew)] == started_anew)
    (tmp_path / "fifo").write_text("{}")
    assert child.wait() == 76


def test_ranks_die_with_the_launcher(tmp_path: Path) -> None:
    """An own process, which is killed."""
    os.mkfifo(tmp_path / "fifo")
    script = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from tests.fvlaunch.agent.test_rank_spawner import ask, born, environment
from fvlaunch.agent.rank_spawner import ForkServer
server = ForkServer()
ask(server, Path({str(tmp_path)!r}), config="fifo")
Path("fifo").write_text("{{}}")
[child] = born(server, 1).values()
print(child.pid, server.process_id, flush=True)
import time
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        pids = [int(word) for word in launcher.stdout.readline().split()]
        assert len(pids) == 2
        eventually(lambda: Path(f"/proc/{pids[0]}/comm").read_text() == "rank 0\n")
        launcher.kill()
    eventually(lambda: not any(_lives(pid) for pid in pids))


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
