"""Owns the process from which the ranks of a node are forked: it imports, once, what would take each of them seconds.

Must not start a thread, open a device or draw a random number, because every rank would inherit a copy of it. Where an import does such
a thing, ranks are started as new processes instead of forks. The server itself never fails: whatever is wrong with a configuration, each
rank finds and reports by itself.

Started as `python -m trainers.forkserver CONFIG --run-dir DIR` with FORKSERVER_FD, the launcher's socket (SOCK_SEQPACKET). A request
brings three or four open files: a JSON object {"environment", "cwd", "arguments"}, the log, the progress pipe, and for rank 0 the
listening socket of the rendezvous store. The answer is {"rank", "pid"}. A rank becomes the launcher's own child, which therefore must be
a subreaper (prctl 36).
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

from . import allocator
from .config import TrainConfig
from .control import SIGNALS
from .processes import module_command

_FILES = ("log", "TRAINER_PROGRESS_FD", "TRAINER_LISTEN_FD")
"""What the open files of a request are, after the first."""
_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd")
"""Devices that are open once CUDA or ROCm is initialised. Counting GPUs by NVML, which survives a fork, opens others."""


def main() -> None:
    """Answer requests until the launcher closes its socket."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # they are meant for ranks, which unblock them when they are ready
    channel = socket.socket(fileno=int(os.environ["FORKSERVER_FD"]))
    allocator.prefer_expandable_segments()
    with contextlib.suppress(Exception):
        preload(Path(sys.argv[1]))
    forkable = _is_forkable()
    gc.freeze()  # a garbage collection in a rank would otherwise copy the shared memory
    while True:
        message, files, _, _ = socket.recv_fds(channel, 65536, 4)
        if not message:
            return
        if _fork_twice(channel):
            _become_rank(channel, json.loads(message)["rank"], files, forkable)
        for file in files:
            os.close(file)


def preload(config: Path) -> None:
    """Import what a rank with this configuration will need."""
    from . import __main__ as rank

    program, block = rank.read_config(config)
    importlib.import_module(f".{rank.PROGRAMS[program][1]}", __package__)
    if isinstance(block, TrainConfig):
        from .methods import method_class
        from .models import model_class

        for model in block.models.values():
            model_class(str(getattr(model, "family", "wan")))
        method_class(block.method.kind)


def _is_forkable() -> bool:
    """Return whether a fork of this process would work: it has one thread and no open device, neither of which survives a fork.

    FORKSERVER_EXEC=1 in the environment forbids forks.
    """
    if os.environ.get("FORKSERVER_EXEC") == "1" or len(list(Path("/proc/self/task").iterdir())) > 1:
        return False
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(_DEVICES):
                return False
    return True


def _fork_twice(channel: socket.socket) -> bool:
    """Fork a grandchild of this process; return True in it, once the launcher is its parent, and False in the server."""
    middle = os.fork()
    if middle:
        os.waitpid(middle, 0)
        return False
    middle = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == middle:
        time.sleep(0.001)
    return True


def _become_rank(channel: socket.socket, rank: int, files: list[int], forkable: bool) -> None:
    """Turn this forked process into the rank: session, files, environment and folder as requested, then the rank's program. Never
    returns."""
    os.setsid()
    channel.send(json.dumps({"rank": rank, "pid": os.getpid()}).encode())  # before anything that may block, such as a network file system
    channel.close()
    with os.fdopen(files[0], "rb") as request:
        request.seek(0)
        start = json.load(request)
    opened = dict(zip(_FILES, files[1:], strict=False))
    log = opened.pop("log")
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for file in opened.values():
        os.set_inheritable(file, True)
    os.environ.clear()
    os.environ.update(start["environment"], **{name: str(file) for name, file in opened.items()})
    os.chdir(start["cwd"])
    if not forkable:
        command = module_command("trainers", *start["arguments"])
        os.execv(command[0], command)
    from .__main__ import main as rank_main

    sys.argv = ["trainers", *start["arguments"]]
    sys.exit(rank_main(start["arguments"]))


if __name__ == "__main__":
    main()
