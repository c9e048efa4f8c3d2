"""Owns the processes of the ranks on this node: start, messages, exits, signals, stacks. Must not judge what an exit means."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runconfig import World
from ..runs import Run

_NOT_FOR_RANKS = ("SLURM_", "SBATCH_", "SRUN_", "PMI_", "PMIX_", "SUBMITIT_")


@dataclass
class Rank:
    rank: int
    process: subprocess.Popen[bytes]
    pipe: int
    log: Path
    unread: bytes = b""
    exit_code: int | None = None
    exited_at: float = 0.0
    killed_by_agent: bool = False


class Ranks:
    """The ranks of one attempt on this node."""

    def __init__(self, run: Run, attempt: int, generation: int, world: World, store_socket: socket.socket | None) -> None:
        self.ranks: list[Rank] = []
        self._run, self._attempt, self._generation, self._world = run, attempt, generation, world
        self._socket = store_socket
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        for local_rank in range(self._world.per_node):
            self.ranks.append(self._start(local_rank))
        if self._socket is not None:
            self._socket.close()  # rank 0 has it now

    def _start(self, local_rank: int) -> Rank:
        rank = self._world.node * self._world.per_node + local_rank
        log = self._run.rank_log(self._attempt, rank)
        log.parent.mkdir(parents=True, exist_ok=True)
        read_end, write_end = os.pipe()
        passed = [write_end]
        environment = self._environment(rank, local_rank, write_end)
        if rank == 0 and self._socket is not None:
            passed.append(self._socket.fileno())
            environment["TRAINER_LISTEN_FD"] = str(self._socket.fileno())
        config = self._run.attempts / f"{self._attempt:04d}.config.json"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "trainers", str(config), "--run-dir", str(self._run.path)],
                env=environment,
                cwd=self._run.path,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=passed,
                preexec_fn=_die_with_parent,
            )
        os.close(write_end)
        os.set_blocking(read_end, False)
        found = Rank(rank, process, read_end, log)
        self._selector.register(read_end, selectors.EVENT_READ, found)
        return found

    def _environment(self, rank: int, local_rank: int, progress: int) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_FOR_RANKS)}
        caches = Path(os.environ.get("TMPDIR") or "/tmp") / f"fvlaunch-{os.getuid()}" / self._run.name / f"rank-{rank:04d}"
        single = {"GLOO_SOCKET_IFNAME": "lo"} if self._world.size == self._world.per_node else {}
        return {
            "GOMP_SPINCOUNT": "20000",  # threads that wait for each other any longer make steps many times slower where a core is shared
            **single,
            **kept,
            "RANK": str(rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(self._world.size),
            "LOCAL_WORLD_SIZE": str(self._world.per_node),
            "MASTER_ADDR": self._world.master_address,
            "MASTER_PORT": str(self._world.master_port),
            "OMP_NUM_THREADS": str(self._world.threads),
            "PYTHONUNBUFFERED": "1",
            "TRITON_CACHE_DIR": str(caches / "triton"),
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRAINER_PROGRESS_FD": str(progress),
            "TRAINER_PARENT_PID": str(os.getpid()),
            "TRAINER_CURRENT": str(self._run.attempt_file),
            "TRAINER_GENERATION": str(self._generation),
            "TRAINER_ATTEMPT": str(self._attempt),
        }

    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        """Wait up to timeout_s for messages, and note which ranks have exited. Messages carry the agent's rank and clock."""
        messages: list[dict[str, Any]] = []
        for key, _ in self._selector.select(timeout_s if self._selector.get_map() else 0):
            messages += self._read(key.data)
        if not self._selector.get_map():
            time.sleep(min(timeout_s, 0.05))  # every pipe is closed, and the exits follow at once
        for rank in self.alive():
            code = rank.process.poll()
            if code is not None:
                messages += self._read(rank)
                rank.exit_code, rank.exited_at = code, time.time()
        return messages

    def _read(self, rank: Rank) -> list[dict[str, Any]]:
        try:
            data = os.read(rank.pipe, 65536)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(rank.pipe)
                os.close(rank.pipe)
            return []
        *lines, rank.unread = (rank.unread + data).split(b"\n")
        return [{**message, "rank": rank.rank} for line in lines if (message := _parse(line))]

    def alive(self) -> list[Rank]:
        return [r for r in self.ranks if r.exit_code is None]

    def ask_to_stop(self) -> None:
        self._signal(signal.SIGTERM)

    def stopped(self) -> int | None:
        """A rank that a signal has stopped, if there is one: then the others wait for it, however far each had got."""
        return next((r.rank for r in self.alive() if process_state(r.process.pid) == "T"), None)

    def dump_stacks(self) -> None:
        """Have every rank write the stacks of all its threads to its log; for a stopped one, say so there instead."""
        for rank in self.alive():
            state = process_state(rank.process.pid)
            if state in ("T", "D"):
                words = {"T": "stopped by a signal", "D": "in an uninterruptible wait of the kernel"}[state]
                with rank.log.open("ab") as log:
                    log.write(f"agent: rank {rank.rank} is {words}; its stacks can't be read\n".encode())
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End every rank still alive, its loader workers too (a rank leads its own session), and wait for it."""
        for rank in self.alive():
            rank.killed_by_agent = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(rank.process.pid, signal.SIGKILL)
        for rank in self.alive():
            rank.exit_code, rank.exited_at = rank.process.wait(), time.time()

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            os.close(key.data.pipe)
        self._selector.close()

    def _signal(self, signum: signal.Signals) -> None:
        for rank in self.alive():
            with contextlib.suppress(ProcessLookupError):
                rank.process.send_signal(signum)


def process_state(pid: int) -> str:
    """The kernel's letter for a process (R, S, D, T, Z …); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def listen(address: str) -> socket.socket:
    """A listening socket on a port that is free now, and stays ours: rank 0 inherits it."""
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.bind((address, 0))
    found.listen(1024)
    return found


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _die_with_parent() -> None:
    """In the child, before the rank's own code runs: see trainers/control.py, which does the same later."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
