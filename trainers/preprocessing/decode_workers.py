"""Owns the processes that decode clips ahead of the encoder. Must not know what becomes of the frames.

They are processes of their own because a damaged or hostile file can crash a decoder, eat memory or take for ever: none of that may end a
job. Results come in the order of the jobs, so what is written does not depend on how many processes there are.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import torch

from ..control import die_with_parent
from ..processes import begin_as_helper, kill_at_exit
from ..sources.entries import Rejected
from .clips import Clip, Settings, read_clip

Job = tuple[Path | bytes, float]
"""A video and where in it to start, see clips.read_clip."""

_MEMORY_BYTES = 12 * 2**30
"""Most memory of one decoder."""


class Decoders:
    """A number of processes that decode; `close` ends them. They are started at once: importing what they need takes seconds.

    `method` is multiprocessing's way to start them; not fork, since a rank has threads and sockets.
    """

    def __init__(self, number: int, settings: Settings, limit_s: float, method: str = "spawn") -> None:
        self._limit_s = limit_s
        self._workers = [_Worker(settings, method) for _ in range(number)]

    def clips(self, jobs: Iterable[Job | Rejected], waiting: Callable[[], None] = lambda: None) -> Iterator[Clip | Rejected]:
        """Yield a clip for each job, in order; a Rejected comes back as it is. As many are decoded ahead as there are processes.

        `waiting` is called about once a second while a clip is not there yet; it may raise.
        """
        jobs, free, busy = iter(jobs), deque(self._workers), deque[tuple[_Worker | None, Job | Rejected]]()
        while True:
            while free and (job := next(jobs, None)) is not None:
                busy.append((None if isinstance(job, Rejected) else free.popleft(), job))
                _send(*busy[-1])
            if not busy:
                return
            worker, job = busy.popleft()
            if worker is not None:
                free.append(worker)
            if worker is None or isinstance(job, Rejected):
                yield job  # type: ignore[misc]
            else:
                yield self._result(worker, job, waiting)

    def _result(self, worker: _Worker, job: Job, waiting: Callable[[], None]) -> Clip | Rejected:
        for last in (False, True):  # a decoder may also die of something that is not the clip's fault
            end = time.monotonic() + self._limit_s
            try:
                while not worker.ready(1.0):
                    waiting()
                    if time.monotonic() > end:
                        worker.kill()
                        return Rejected("too_slow", f"not decoded after {self._limit_s:g} s")
                return worker.receive()
            except (EOFError, OSError):
                worker.kill()
                waiting()
                if not last:
                    worker.send(job)
        return Rejected("crashes", "its decoder died twice")

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()


def _send(worker: _Worker | None, job: Job | Rejected) -> None:
    if worker is not None and not isinstance(job, Rejected):
        worker.send(job)


class _Worker:
    """One process and the pipe to it; a new one is started for the first job after a `kill`."""

    def __init__(self, settings: Settings, method: str) -> None:
        self._settings, self._context = settings, multiprocessing.get_context(method)
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process: BaseProcess | None = self._context.Process(target=_serve, args=(theirs, self._settings), daemon=True)  # type: ignore[attr-defined]
        self._process.start()
        theirs.close()
        kill_at_exit(self._process)

    def send(self, job: Job) -> None:
        if self._process is None:
            self._start()
        with contextlib.suppress(OSError):  # it is dead; found when its answer is awaited
            self._pipe.send(job)

    def ready(self, timeout_s: float) -> bool:
        return self._pipe.poll(timeout_s)

    def receive(self) -> Clip | Rejected:
        answer = self._pipe.recv()
        if isinstance(answer, Rejected):
            return answer
        shape, clip = answer
        frames = np.empty(shape, np.float32)
        self._pipe.recv_bytes_into(frames.reshape(-1).view(np.uint8))
        return replace(clip, frames=torch.from_numpy(frames))

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


def _serve(pipe: Connection, settings: Settings) -> None:
    """Decode until the rank closes the pipe; signals to the process group are for the rank, and a decoder never outlives it."""
    begin_as_helper()
    die_with_parent()  # a parent that is dead already closes the pipe
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))
    torch.set_num_threads(1)
    while True:
        try:
            video, start = pipe.recv()
        except EOFError:
            return
        _answer(pipe, video, settings, start)


def _answer(pipe: Connection, video: Path | bytes, settings: Settings, start: float) -> None:
    try:
        clip = read_clip(video, settings, start)
    except Rejected as problem:
        pipe.send(Rejected(problem.reason, problem.text))  # without its cause, which may not travel
        return
    frames = clip.frames.contiguous().numpy()
    pipe.send((frames.shape, replace(clip, frames=torch.empty(0))))
    pipe.send_bytes(frames.reshape(-1).view(np.uint8))
