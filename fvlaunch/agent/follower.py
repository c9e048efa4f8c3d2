"""Owns the agent on every node but the first: runs the ranks that the head publishes and reports their ends.

Must not decide, except where the head has fallen silent: then the job goes back to the scheduler.
"""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config import secrets as secret_values
from ..errors import FvlaunchError
from ..files import read_json, why_not_writable
from ..runs.directory import FINAL_STATES, Run
from ..runs.job_folder import ContinuationRequest
from ..runs.run_config import RunConfig
from . import own_output
from .attempt_monitor import Watch
from .failure_attribution import NodeEnd
from .head import SETTLE_S
from .next_life import REQUEUE_WAIT_S
from .node_heartbeats import beat_file, report_file
from .placement import Placement
from .rank_processes import Ranks
from .rank_spawner import ForkServer
from .record_writer import RecordWriter
from .run_folder import RunFolder
from .stop_notices import Signals

REPORT_ROOM = 16383
"""Bytes that a node's report has from the start of its ranks."""


class HeadIsSilent(Exception):
    """Nothing was heard of the head for limits.head_silence_s."""


class Follower:
    def __init__(self, run: Run, config: RunConfig, placement: Placement, signals: Signals) -> None:
        self.run, self.config, self.placement, self.signals = run, config, placement, signals
        self.limits = config.cluster.limits
        self.server = ForkServer()
        self.writer = RecordWriter(run.path)
        self.word: tuple[ContinuationRequest, Sequence[str]] = (ContinuationRequest.NOTHING, ())
        self._heard, self._heard_at = "", time.monotonic()
        self._blind_since: float | None = None
        self._folder = RunFolder(run.path)
        self._next_poll = self._next_beat = 0.0
        self._record: dict[str, Any] = {}

    def main(self) -> int:
        """One attempt (on several nodes the next one is always a new start of the job), then what the head says."""
        try:
            if (over := self._await_record()) is not None:
                return 0 if over == "finished" else 1
            if self._record.get("outcome") is None:
                self._run_ranks()
            return self._follow(self._await_outcome())
        except HeadIsSilent:
            return self._without_head()

    def _listen(self) -> None:
        """Hear the head: its record and its heartbeat change while it lives."""
        self._beat()
        record = self.run.current_attempt()
        mine = (record.get("job_id"), record.get("restart_count")) == (self.placement.job_id, self.placement.restart_count)
        self._record = record if mine else {}
        beat = read_json(self.run.heartbeat_file) or {}
        heard = f"{record} {beat.get('time')}"
        if heard != self._heard:
            self._heard, self._heard_at = heard, time.monotonic()
        elif time.monotonic() - self._heard_at > self.limits.head_silence_s and not self._is_blind():
            raise HeadIsSilent

    def _is_blind(self) -> bool:
        """Return whether the head cannot be heard because nobody can write in the run's folder. For limits.phase_s that is no silence."""
        if self._folder.is_removed():
            return False
        if not self._cannot_write():
            could_not, self._blind_since = self._blind_since is not None, None
            self._heard_at = time.monotonic() if could_not else self._heard_at  # from now on it can be heard again
            return could_not
        self._blind_since = self._blind_since or time.monotonic()
        return time.monotonic() - self._blind_since < self.limits.phase_s

    def _cannot_write(self) -> bool:
        """Return whether signs of life cannot be written now: they are overwritten in place, which a full disk still takes."""
        if self._record:
            return self.writer.fails(self._beat_file())
        error = why_not_writable(self.run.attempts)
        return error is not None and error.errno not in (errno.ENOSPC, errno.EDQUOT)

    def _beat_file(self) -> Path:
        return beat_file(self.run, int(self._record["attempt"]), self.placement.node)

    def _beat(self) -> None:
        """Let the head hear of this node."""
        if self._record and time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + min(10.0, self.limits.head_silence_s / 4)
            self.writer.put(self._beat_file(), {"time": time.time()})

    def _await_record(self) -> str | None:
        """Wait for the head's attempt; return the run's state where it has ended already: then the head begins none."""
        while True:
            self._listen()
            if self._record:
                return None
            if time.monotonic() >= self._next_poll:
                self._next_poll = time.monotonic() + self.limits.poll_s
                if over := self._over():
                    return over
            time.sleep(0.1)

    def _over(self) -> str | None:
        """Return the final state of the run that this job is of; None where it goes on, or that cannot be read now."""
        try:
            record = self.run.record()
        except FvlaunchError:
            return None
        return record.state if record.token == self.placement.token and record.state in FINAL_STATES else None

    def _run_ranks(self) -> None:
        record = self._record
        world = self.config.world(self.placement.node, record["host"], record["port"], self.placement.gpus)
        ranks = Ranks(self.run, record["attempt"], record["generation"], world, None, self.server)
        self._watch = Watch(self.run, self.placement.host, ranks, self.limits, SETTLE_S, secret_values.values(self.config.cluster.secrets))
        report = report_file(self.run, record["attempt"], self.placement.node)
        self.writer.put(report, {}, room=REPORT_ROOM)  # from now on it can be rewritten, whatever becomes of the disk
        self._report(report, self._watch.until_over(self._tick))

    def _report(self, path: Path, end: NodeEnd) -> None:
        """Tell the head how the ranks here ended; without the ends of their logs where there is no room for these."""
        if not self.writer.put(path, end.dump()):
            self.writer.put(path, NodeEnd.dump(replace(end, ends=tuple(replace(e, told=e.told[-300:], lines=()) for e in end.ends))))

    def _tick(self, _messages: list[dict[str, Any]]) -> None:
        if signal.SIGTERM in self.signals.take() and not self._watch.is_stopping:  # SIGUSR2 is an early reminder: the head knows better
            self._watch.stop(time.monotonic() + REQUEUE_WAIT_S)  # the head knows the deadline, and ends the job by it
        if time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + self.limits.poll_s
        self._listen()
        if not self._record or self._record.get("outcome"):
            self._watch.ranks.kill()

    def _await_outcome(self) -> str:
        while not self._record.get("outcome"):
            self._listen()
            if not self._record:
                return "end"  # another job or another life of this one has taken over
            time.sleep(min(0.2, self.limits.poll_s))
        return str(self._record["outcome"])

    def _follow(self, outcome: str) -> int:
        return 0 if outcome == "end" and self.run.record().state == "finished" else 1

    def _without_head(self) -> int:
        """The head is gone without a word (its agent was killed, its node hangs): give the job back, once for all followers."""
        if self.config.cluster.continue_by == "resubmit" or not self.placement.scheduler.can_ask():
            return 1  # the batch script finds that the head left no word, and acts
        time.sleep(2.0 * (self.placement.node - 1))
        if self.run.intent().want == "run" and self.run.record().state == "submitted":
            own_output.say("nothing is heard of the first node; requeueing the job")
            try:
                self.placement.scheduler.requeue(self.placement.job_id)
            except FvlaunchError as error:
                own_output.say(str(error))
        return 1  # the job's fate is decided: who stayed would keep it from its next life until Slurm kills (KillWait)
