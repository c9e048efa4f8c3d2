"""Owns the process that the ranks of a node are forked from: it imports, once, what takes each of them seconds.

Must not start a thread, open a device or draw a random number: whatever it held, every rank would hold a copy of. Where an import does
such a thing, ranks are started anew instead of forked. It never fails: what is wrong, each rank finds and tells by itself.

`python -m trainers.forkserver CONFIG --run-dir DIR`, with FORKSERVER_FD: the launcher's socket (SOCK_SEQPACKET). A request brings three or
four open files: a JSON object {"environment", "cwd", "arguments"}, the log, the progress pipe, and for rank 0 the listening socket of
the store; the answer is {"rank", "pid"}. A rank is the launcher's own child, which therefore must be a subreaper (prctl 36).
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

from .config import TrainConfig
from .control import SIGNALS

_FILES = ("log", "TRAINER_PROGRESS_FD", "TRAINER_LISTEN_FD")
"""Of a request's open files, those after the first."""
_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd")
"""Open where CUDA or ROCm was initialised; counting GPUs by NVML, which a fork does not mind, opens others."""


def main() -> None:
    """Serve until the launcher is gone."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # meant for ranks: whoever is forked takes them when it is ready to
    channel = socket.socket(fileno=int(os.environ["FORKSERVER_FD"]))
    with contextlib.suppress(Exception):
        preload(Path(sys.argv[1]))
    forkable = _is_forkable()
    gc.freeze()  # or a collection in a rank would copy all that is shared
    while True:
        message, files, _, _ = socket.recv_fds(channel, 65536, 4)
        if not message:
            return
        if _fork_twice(channel):
            _become_rank(channel, json.loads(message)["rank"], files, forkable)
        for file in files:
            os.close(file)


def preload(config: Path) -> None:
    """Import what a rank with this configuration will."""
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
    """No thread but this one, and no device in use: neither survives a fork. FORKSERVER_EXEC=1: not wanted."""
    if os.environ.get("FORKSERVER_EXEC") == "1" or len(list(Path("/proc/self/task").iterdir())) > 1:
        return False
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()).startswith(_DEVICES):
                return False
    return True


def _fork_twice(channel: socket.socket) -> bool:
    """True in a grandchild, as soon as the launcher is its parent."""
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
    os.setsid()
    channel.send(json.dumps({"rank": rank, "pid": os.getpid()}).encode())  # before anything that may wait, as a folder far away
    channel.close()
    with os.fdopen(files[0], "rb") as request:
        request.seek(0)
        wanted = json.load(request)
    opened = dict(zip(_FILES, files[1:], strict=False))
    log = opened.pop("log")
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for file in opened.values():
        os.set_inheritable(file, True)
    os.environ.clear()
    os.environ.update(wanted["environment"], **{name: str(file) for name, file in opened.items()})
    os.chdir(wanted["cwd"])
    command = [sys.executable, "-m", "trainers", *wanted["arguments"]]
    if not forkable:
        os.execv(command[0], command)
    from .__main__ import main as rank_main

    sys.argv = command[2:]
    sys.exit(rank_main(wanted["arguments"]))


if __name__ == "__main__":
    main()
