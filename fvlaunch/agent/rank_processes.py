"""Owns the processes of the ranks on this node: start, messages, exits, signals, stacks. Must not judge what an exit means."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ..runs.directory import Run
from ..runs.run_config import World
from . import own_output
from .compile_caches import CompileCaches
from .rank_spawner import Child, ForkServer, reap_group

_NOT_FOR_RANKS = ("SLURM_", "SBATCH_", "SRUN_", "PMI_", "PMIX_", "SUBMITIT_")

_FORKABLE = {"OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""No threads and no device after the imports, or ranks cannot be forked. numpy's algebra and Arrow's allocator have no part in a step."""


@dataclass
class Rank:
    rank: int
    process: Child | None
    """None: asked for, but not born yet."""
    pipe: int
    log: Path
    unread: bytes = b""
    exit_code: int | None = None
    exited_at: float = 0.0
    killed_by_agent: bool = False


class Ranks:
    """The ranks of one attempt on this node."""

    def __init__(
        self, run: Run, attempt: int, generation: int, world: World, store_socket: socket.socket | None, server: ForkServer
    ) -> None:
        self.ranks: list[Rank] = []
        self._run, self._attempt, self._generation, self._world = run, attempt, generation, world
        self._socket, self._server = store_socket, server
        self._selector = selectors.DefaultSelector()
        self._caches = CompileCaches(run.name)
        self._stopping = False

    def start(self) -> None:
        for local_rank in range(self._world.per_node):
            self.ranks.append(self._start(local_rank))
        self._server.register(self._selector)
        if self._socket is not None:
            self._socket.close()  # rank 0 has it now

    def _start(self, local_rank: int) -> Rank:
        rank = self._world.node * self._world.per_node + local_rank
        read_end, write_end = os.pipe()
        config = self._run.attempts / f"{self._attempt:04d}.config.json"
        log, output = _open_log(self._run.rank_log(self._attempt, rank))
        with output:
            files = [output.fileno(), write_end]
            if rank == 0 and self._socket is not None:
                files.append(self._socket.fileno())
            arguments = [str(config), "--run-dir", str(self._run.path)]
            self._server.ask(rank, arguments, self._environment(rank, local_rank), self._run.path, files)
        os.close(write_end)
        os.set_blocking(read_end, False)
        found = Rank(rank, None, read_end, log)
        self._selector.register(read_end, selectors.EVENT_READ, found)
        return found

    def _environment(self, rank: int, local_rank: int) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(_NOT_FOR_RANKS)}
        single = {"GLOO_SOCKET_IFNAME": "lo"} if self._world.size == self._world.per_node else {}
        gpus = {"TRAINER_GPUS": str(self._world.gpus)} if self._world.gpus is not None else {}
        return {
            "GOMP_SPINCOUNT": "20000",  # threads that wait for each other any longer make steps many times slower where a core is shared
            **_FORKABLE,
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
            **self._caches.of_node(),
            **gpus,
            "TRAINER_PARENT_PID": str(os.getpid()),
            "TRAINER_CURRENT": str(self._run.attempt_file),
            "TRAINER_GENERATION": str(self._generation),
            "TRAINER_ATTEMPT": str(self._attempt),
        }

    def poll(self, timeout_s: float) -> list[dict[str, Any]]:
        """Wait up to timeout_s for messages, and note which ranks have exited. Messages carry the agent's rank and clock."""
        messages: list[dict[str, Any]] = []
        for key, _ in self._selector.select(timeout_s if self._selector.get_map() else 0):
            messages += self._read(key.data) if isinstance(key.data, Rank) else []
        self._take_births()
        if not any(isinstance(key.data, Rank) for key in self._selector.get_map().values()):
            time.sleep(min(timeout_s, 0.05))  # every pipe is closed, and the exits follow at once
        for rank in self.alive():
            code = rank.process.poll() if rank.process is not None else None
            if code is not None:
                messages += self._read(rank)
                rank.exit_code, rank.exited_at = code, time.time()
        return messages

    def _take_births(self) -> None:
        born = self._server.births()
        for rank in self.alive():
            if rank.process is None and born and rank.rank in born:
                rank.process = Child(born[rank.rank])
                if self._stopping:
                    rank.process.send_signal(signal.SIGTERM)
        if born is None:
            self._without_server()

    def _without_server(self) -> None:
        """It ended by itself, or was killed: whoever was not born will not be."""
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(self._server.channel or -1)
        code = self._server.end()
        for rank in self.alive():
            if rank.process is None:
                _write(rank.log, f"the process that starts ranks ended with {code} before rank {rank.rank} was there")
                rank.exit_code, rank.exited_at = code or 1, time.time()

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
        """A rank that is not born yet hears it as soon as it is."""
        self._stopping = True
        self._signal(signal.SIGTERM)

    def stopped(self) -> int | None:
        """Return a rank that a signal has stopped, if there is one: then the others wait for it, however far each had got."""
        return next((r.rank for r in self.alive() if r.process is not None and process_state(r.process.pid) == "T"), None)

    def dump_stacks(self) -> None:
        """Have every rank write the stacks of all its threads to its log; for one that can't, say so there instead."""
        for rank in self.alive():
            state = process_state(rank.process.pid) if rank.process is not None else ""
            words = {"T": "is stopped by a signal", "D": "is in an uninterruptible wait of the kernel"}.get(state)
            if rank.process is None:
                words = "has not started: its imports have not ended"
            if words is not None:
                _write(rank.log, f"rank {rank.rank} {words}; its stacks can't be read")
        self._signal(signal.SIGUSR1)

    def kill(self) -> None:
        """End every rank still alive, its loader workers too (a rank leads its own session), and wait for it."""
        if any(rank.process is None for rank in self.alive()):
            self._end_births()
        for rank in self.alive():
            rank.killed_by_agent = True
            if rank.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(rank.process.pid, signal.SIGKILL)
        for rank in self.alive():
            rank.exit_code = rank.process.wait() if rank.process is not None else -signal.SIGKILL
            rank.exited_at = time.time()

    def _end_births(self) -> None:
        """Kill the server; whoever it has forked by then tells so, and gets the same as the others."""
        self._server.end()
        born: dict[int, int] | None = {}
        while born is not None:
            for rank in self.alive():
                if rank.rank in born:
                    rank.process = Child(born[rank.rank])
            time.sleep(0.005)
            born = self._server.births()

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Rank):
                os.close(key.data.pipe)
        self._selector.close()
        self._caches.close()
        for rank in self.ranks:
            if rank.process is not None:
                reap_group(rank.process.pid)

    def _signal(self, signum: signal.Signals) -> None:
        for rank in self.alive():
            if rank.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    rank.process.send_signal(signum)


def process_state(pid: int) -> str:
    """Return the kernel's letter for a process (R, S, D, T, Z …); empty where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return ""


def process_age_s() -> float:
    """Return how long ago this process was started, its interpreter's start and imports included."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK"))


def listen(address: str) -> socket.socket:
    """Return a listening socket on a port that is free now, and stays ours: rank 0 inherits it."""
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


def _open_log(path: Path) -> tuple[Path, BinaryIO]:
    """Open a rank's log. Where the run's folder does not take it, one on this machine: a rank needs some place for its last words."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path, path.open("ab")
    except OSError as error:
        why = error.strerror
    with contextlib.suppress(OSError):
        handle, name = tempfile.mkstemp(prefix=f"fvlaunch-{path.parent.name}-{path.stem}-", suffix=".log")
        own_output.say(f"{path} cannot be made: {why}. This log is {name} on {socket.gethostname()}")
        return Path(name), os.fdopen(handle, "ab")
    own_output.say(f"{path} cannot be made: {why}, nor can a file on {socket.gethostname()}: what this rank prints is lost")
    return Path(os.devnull), os.fdopen(os.open(os.devnull, os.O_WRONLY), "wb")


def _write(log: Path, words: str) -> None:
    with contextlib.suppress(OSError), log.open("ab") as out:
        out.write(f"agent: {words}\n".encode())
