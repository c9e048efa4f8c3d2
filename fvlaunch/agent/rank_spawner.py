"""Owns the agent's side of trainers/forkserver.py: one such process at a time, and the ranks it was asked for. Must not judge exits.

Imports cost a rank 5 to 60 s (more where the environment lies on a network file system). So they are done once a node and job: ranks
are forked from a process that has done them, and after a crash the next attempt's ranks are there at once.
"""

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
from pathlib import Path
from typing import Any

from ..schedulers.python_processes import module_command


class ForkServer:
    """Started by the first request, and again if it has ended. Ranks become children of this process."""

    def __init__(self) -> None:
        ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: what loses its parent becomes a child of this process
        self._process: subprocess.Popen[bytes] | None = None
        self.channel: socket.socket | None = None
        """Readable where `births` has something to tell."""

    def ask(self, rank: int, arguments: list[str], environment: dict[str, str], cwd: Path, files: list[int]) -> None:
        """Have a rank started with `files`: its log, its progress pipe and for rank 0 the store's socket. `births` tells its pid."""
        if self._process is None or self._process.poll() is not None:
            self._start(arguments, environment, cwd)
        assert self.channel is not None
        with os.fdopen(os.memfd_create("rank"), "wb") as request:  # an environment may hold secrets: never on a disk
            request.write(json.dumps({"environment": environment, "cwd": str(cwd), "arguments": arguments}).encode())
            request.flush()
            with contextlib.suppress(OSError):  # it has just ended: `ended` says so
                socket.send_fds(self.channel, [json.dumps({"rank": rank}).encode()], [request.fileno(), *files])

    def _start(self, arguments: list[str], environment: dict[str, str], cwd: Path) -> None:
        if self.channel is not None:
            self.channel.close()
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                module_command(sys.executable, "trainers.forkserver", *arguments),
                env={**environment, "FORKSERVER_FD": str(theirs.fileno())},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
                preexec_fn=_die_with_parent,
            )
        self.channel.setblocking(False)

    @property
    def process_id(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def register(self, selector: selectors.BaseSelector) -> None:
        """Wake whoever waits on `selector` when there is a birth; the key's data is this object."""
        if self.channel is not None:
            selector.register(self.channel, selectors.EVENT_READ, self)

    def births(self) -> dict[int, int] | None:
        """rank -> pid of those born since the last call; None once the server has ended and all of its births were told."""
        born: dict[int, int] = {}
        while self.channel is not None:
            try:
                message = self.channel.recv(4096)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if not message:
                return born or None
            birth: dict[str, Any] = json.loads(message)
            born[birth["rank"]] = birth["pid"]
        return born

    def end(self) -> int | None:
        """Kill it; its exit code. Ranks go on: whoever was not born yet has no say, whoever was is told by `births`."""
        if self._process is None:
            return None
        self._process.kill()
        return self._process.wait()


class Child:
    """A child process that somebody else forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return what subprocess.Popen's does: the exit code, or minus the signal."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int:
        code = self._wait(0)
        assert code is not None
        return code

    def send_signal(self, signum: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, signum)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode


def reap_group(leader: int) -> None:
    """Those of a dead rank's own children (its loaders) that became ours and have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-leader, os.WNOHANG)[0]:
            pass


def _die_with_parent() -> None:
    """In the child, before its own code runs."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2))
